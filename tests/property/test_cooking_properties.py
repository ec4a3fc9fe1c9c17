"""Cooking: whatever a file holds, every annotation and every image ends in exactly one count."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.data.cooking import cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.errors import DataError
from coordexp.data.records import read_records
from coordexp.data.regions import read_scope
from tests.plugins.found_files import check_balance

FILES = ("a.png", "b.png", "gone.png", "text.png")
SIDE = st.integers(-10, 80)
ANNOTATION = st.fixed_dictionaries(
    {
        "image_id": st.integers(1, 5),
        "category_id": st.integers(1, 4),
        "bbox": st.tuples(SIDE, SIDE, SIDE, SIDE),
    },
    optional={"iscrowd": st.sampled_from([0, 1, True]), "ignore": st.sampled_from([0, 1, False, None])},
)
COCO = st.fixed_dictionaries(
    {
        "images": st.lists(st.sampled_from(FILES), min_size=1, max_size=4).map(
            lambda names: [{"id": i, "file_name": name, "width": 64, "height": 32} for i, name in enumerate(names, 1)]
        ),
        "annotations": st.lists(ANNOTATION, max_size=12),
        "categories": st.just([{"id": 1, "name": "cat"}, {"id": 2, "name": "big  dog"}, {"id": 3, "name": "cow"}]),
    }
)
OPTIONS = st.builds(
    CookOptions,
    max_pixels=st.sampled_from([4096, 16384]),
    max_objects=st.sampled_from([None, 2]),
    category_map=st.sampled_from([None, {"cat": "cat", "big dog": "cat"}]),
    keep_empty=st.booleans(),
    background=st.booleans(),
)


@pytest.mark.invariant("DATA-009")
@pytest.mark.invariant("DATA-044")
@given(coco=COCO, options=OPTIONS)
def test_everything_that_comes_in_is_counted_once(coco: dict[str, Any], options: CookOptions) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in FILES[:2]:
            Image.new("RGB", (64, 32)).save(folder / file)
        (folder / "text.png").write_text("no picture")
        (folder / "annotations.json").write_text(json.dumps(coco))
        try:
            manifest = cook(CookSource(folder / "annotations.json", folder), folder / "out", options)
        except DataError as error:
            assert "is left" in str(error)
            assert not (folder / "out").exists()
            return
        check_balance(manifest)
        records = read_records(folder / "out/records.jsonl")
        assert manifest["records"]["kept"] == len(records)
        assert manifest["objects"]["kept"] == sum(len(record.objects) for record in records)
        scopes = [read_scope(record).ignore for record in records]
        assert sum(manifest["objects"]["ignored"].values()) == sum(len(ignore) for ignore in scopes)
        for record, ignore in zip(records, scopes, strict=True):
            for region in ignore:
                x1, y1, x2, y2 = region.box
                assert 0 <= x1 < x2 <= record.width
                assert 0 <= y1 < y2 <= record.height
        for reason, examples in manifest["dropped_examples"].items():
            assert len(examples) == manifest["records"]["dropped"][reason]
