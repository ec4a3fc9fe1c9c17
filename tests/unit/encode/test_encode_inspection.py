"""`python -m coordexp.entrypoints.inspect_chat_template` shows what the encoder makes of a record."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import ProcessorMixin

from coordexp.coords.codec import render_coord_token
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import build_encoder
from coordexp.encode.settings import EncodeSettings
from coordexp.entrypoints.inspect_chat_template import main

CAT = CoordObject("black cat.", "bbox_2d", (1, 2, 3, 4))


@pytest.fixture
def jsonl(make_record: Callable[..., Record], tmp_path: Path) -> Path:
    """Two records: a plain one, and one whose image is too large for `max_pixels`."""
    lines = []
    for record in (make_record([CAT], 96, 64), make_record([CAT], 64, 64)):
        image = str(Path(record.source).parent / record.images[0])
        box = [render_coord_token(k) for k in CAT.bins]
        lines.append({"images": [Path(image).name], "width": record.width, "height": record.height,
                      "objects": [{"desc": CAT.desc, "bbox_2d": box}]})  # fmt: skip
        (tmp_path / Path(image).name).write_bytes(Path(image).read_bytes())
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def checkpoint(cut_processor: ProcessorMixin, tmp_path: Path) -> Path:
    cut_processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.invariant("ENC-016")
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
def test_inspector_prints_the_encoders_tokens(
    cut_processor: ProcessorMixin, jsonl: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], order: str
) -> None:
    assert main([str(jsonl), "--checkpoint", str(checkpoint), "--field-order", order, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    encoder = build_encoder(cut_processor, EncodeSettings(field_order=order))
    sample = encoder.encode(Record(f"{jsonl}:1", ("96x64.png",), 96, 64, (CAT,)))
    ids = [token for _, count, token, *_ in shown["rows"] for _ in range(count)]
    supervised = [on for _, count, _, _, _, on in shown["rows"] for _ in range(count)]
    assert ids == sample.input_ids.tolist()
    assert supervised == (sample.labels >= 0).tolist()
    assert shown["supervised"] == sum(supervised)
    assert "<|image_pad|>x6<|vision_end|>" in shown["text"]
    assert [row[4] for row in shown["rows"] if row[5] and row[3].startswith(".")] == ["desc"]


@pytest.mark.invariant("ENC-016")
def test_inspector_shows_a_table_for_a_person(
    jsonl: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main([str(jsonl), "--checkpoint", str(checkpoint), "--line", "2"]) == 0
    shown = capsys.readouterr().out
    assert '{"objects": [{"desc": "black cat.", "bbox_2d": [<|coord_1|>,' in shown
    assert "'<|image_pad|>' x4" in shown
    assert "supervised tokens" in shown


@pytest.mark.invariant("ENC-016")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--line", "9"], "records.jsonl: there is no line 9"),
        (["--image-root", "/nowhere"], "records.jsonl:1: /nowhere/96x64.png does not exist"),
    ],
)
def test_inspector_refuses_bad_input_in_one_line(
    jsonl: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    # ms-swift's log handler still holds the stream that an earlier test captured; its complaint is not the inspector's.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    assert main([str(jsonl), "--checkpoint", str(checkpoint), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
