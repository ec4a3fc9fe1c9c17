"""From annotations to samples.

Each artifact on the way passes its contract, and coordinates are encoded exactly once.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.coords.codec import pixel_to_bin
from coordexp.data.cooking import MANIFEST_NAME, RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.dataset import draw_samples
from coordexp.data.paths import resolve_record_images
from coordexp.data.records import read_records
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.spec import check, read_json

DOCUMENT = Path(__file__).parents[3] / "docs/data-contract.md"


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    write_splits(folder / "raw", [SplitSpec("train", 6)], 5)
    raw = folder / "raw/train"
    cook(CookSource(raw / "annotations.json", raw), folder / "train", CookOptions(160 * 160))
    return folder


@pytest.mark.invariant("DATA-021")
def test_each_artifact_passes_its_contract(cooked: Path) -> None:
    lines = (cooked / "train" / RECORDS_NAME).read_text().splitlines()
    assert len(lines) == 6
    for line in lines:
        check("record", json.loads(line))
    check("cook-manifest", read_json(cooked / "train" / MANIFEST_NAME))


@pytest.mark.invariant("DATA-021")
@pytest.mark.invariant("DATA-006")
def test_a_sample_carries_the_bins_of_its_annotation_and_nothing_is_encoded_twice(cooked: Path) -> None:
    coco = read_json(cooked / "raw/train/annotations.json")
    for record in draw_samples(read_records(cooked / "train" / RECORDS_NAME), object_ordering="random", seed=9):
        image = coco["images"][record.metadata["image_id"] - 1]
        expected = []
        for annotation in (a for a in coco["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = annotation["bbox"]
            corners = zip((x, y, x + w, y + h), ("width", "height") * 2, strict=True)
            expected.append(
                tuple(pixel_to_bin(v * getattr(record, k) / image[k], getattr(record, k)) for v, k in corners)
            )
        assert sorted(found.bins for found in record.objects) == sorted(expected)
        assert all(path.is_file() for path in resolve_record_images(record))


@pytest.mark.invariant("DATA-021")
def test_the_document_names_every_artifact_contract_and_policy() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    policies = read_json(Path(__file__).parents[3] / "contracts/records/record.schema.json")["x-policies"]
    for word in (RECORDS_NAME, MANIFEST_NAME, "coordexp:record", "coordexp:cook-manifest", "ROOT_IMAGE_DIR", *policies):
        assert f"`{word}`" in text, word
