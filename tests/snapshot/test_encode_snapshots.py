"""Rendered text, ids, labels and types of fixtures/encode/records.json on the real vocabulary, in both field orders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.inspection import inspect_sample
from coordexp.encode.settings import EncodeSettings
from coordexp.spec import Case, load_cases

CASES = load_cases(Path(__file__).parents[2] / "fixtures" / "encode" / "records.json").cases


def described(encoder: Encoder, record: Record) -> str:
    """One line per token: position (xN for a run), id, type, label mark, text."""
    found = inspect_sample(encoder, encoder.encode(record))
    lines = [repr(found.text)]
    for row in found.rows:
        run = f"x{row.count}" if row.count > 1 else ""
        mark = "label" if row.supervised else "-"
        lines.append(f"{row.position:>4}{run:<3} {row.token_id:>6} {row.type:<6} {mark:<5} {row.text!r}")
    return "\n".join(lines)


@pytest.mark.invariant("ENC-015")
@pytest.mark.parametrize("case", CASES, ids=[case.description for case in CASES])
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
def test_encoded_record_is_the_recorded_one(
    real_processor: object, make_record: Callable[..., Record], snapshot: SnapshotAssertion, case: Case, order: str
) -> None:
    encoder = build_encoder(real_processor, EncodeSettings(field_order=order))
    objects = [CoordObject(row["desc"], row["kind"], tuple(row["bins"])) for row in case.input["objects"]]
    record = make_record(objects, case.input["width"], case.input["height"])
    assert described(encoder, record) == snapshot


@pytest.mark.invariant("ENC-015")
@pytest.mark.parametrize("ordering", ["sorted", "random"])
def test_coco_80_prompt_is_the_recorded_one(
    real_processor: object, make_record: Callable[..., Record], snapshot: SnapshotAssertion, ordering: str
) -> None:
    encoder = build_encoder(real_processor, EncodeSettings(variant="coco_80", ordering=ordering))
    assert encoder.pieces.text(encoder.prompt(make_record()).ids) == snapshot
