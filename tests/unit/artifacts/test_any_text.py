"""Whatever a model writes and data are called reaches report, predictions and results unchanged, pictures escaped.

A picture that fails is a warning, never a lost evaluation.
"""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont
from rich.console import Console

from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
from coordexp.artifacts.files import write_json, write_json_lines
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.evaluation import gallery
from coordexp.evaluation.annotated import AnnotatedSet
from coordexp.evaluation.detections import build_truth
from coordexp.evaluation.gallery import GalleryItem, render_gallery
from coordexp.evaluation.plain_text import plain
from coordexp.evaluation.report import evaluate_detections
from coordexp.evaluation.runner import Evaluation, GenerationSettings, evaluate_model
from coordexp.evaluation.summary import build_summary_table
from coordexp.evaluation.types import Detection, FileImage, FileRow, ImagePrediction, ImageTruth
from coordexp.rollout.types import Decoding
from tests.plugins.reciter import Reciter

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

TEXTS = {
    "newlines": "red\nsquare\r\n\x0b\x0c\u0085\u2028\u2029end",
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "nothing": "\0",
    "bidi": "\u202egnp.exe\u2066\u200f",
    "emoji": "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈",
    "half a pair": "a\ud800b\udfffc",
    "backslash before half a pair": "\\\ud800 \\\u2028",
    "10,000 characters": "long " * 2000,
    "wide": "漢字" * 300,
    "markup": "[bold]x[/bold] [/] [link=a]b :warning:",
    "braces": "{task.description} {0} %s %(x)s",
    "no glyph": "\ue000\U0001f9ff\U000e0041",
}
BINS = tuple(f"<|coord_{k}|>" for k in (100, 100, 500, 500))


def answer(desc: str) -> str:
    """As a model writes it: coord tokens are bare, what JSON must escape is escaped."""
    return '{"objects": [{"desc": ' + json.dumps(desc) + ', "bbox_2d": [' + ", ".join(BINS) + "]}]}"


def about(folder: Path) -> EvaluatedFiles:
    (folder / "checkpoint [b]").mkdir(exist_ok=True)
    (folder / "checkpoint [b]/model.safetensors").write_bytes(b"weights")
    (folder / "val.jsonl").write_text("{}\n")
    return EvaluatedFiles(folder / "checkpoint [b]", folder / "val.jsonl")


def said(encoder: Encoder, folder: Path, texts: list[str], split: str = "all") -> Evaluation:
    records, answers = [], {}
    for number, text in enumerate(texts):
        Image.new("RGB", (96, 64), (250, 250, 250)).save(folder / f"{number}.png")
        known = (CoordObject("red square", "bbox_2d", (100, 100, 500, 500)),)
        source = f"{folder}/val.jsonl:{number + 1}"
        records.append(Record(source, (f"{number}.png",), 96, 64, known, metadata={"split": split}))
        answers[source] = text
    backend = Reciter(encoder, answers)
    settings_ = GenerationSettings(Decoding(4000), "constant", image_root=folder)
    return evaluate_model(backend, encoder, records, settings_)


def named(evaluation: Evaluation, text: str) -> Evaluation:
    """The first prediction called `text`, also where the parser drops what an answer holds so."""
    first, *others = evaluation.scored.predictions
    if first.detections:
        assert first.detections[0].desc == Detection(text, (0, 0, 1, 1)).desc
    box = evaluation.scored.truth[0].objects[0].box
    predictions = (replace(first, detections=(Detection(text, box, 1.0),)), *others)
    return replace(evaluation, scored=replace(evaluation.scored, predictions=predictions))


@pytest.mark.invariant("ART-016")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_text_of_an_answer_is_written_unchanged(cut_encoder: Encoder, tmp_path: Path, text: str) -> None:
    # Half of a pair is no token: it stands as the escape in an answer, and as such in what a backend hands on.
    prose = text.encode("utf-8", "replace").decode("utf-8")
    evaluation = said(cut_encoder, tmp_path, [answer(text), prose], split=text)
    outputs = (evaluation.outputs[0], replace(evaluation.outputs[1], text=text))
    folder = write_evaluation(tmp_path / "out", replace(named(evaluation, text), outputs=outputs), about(tmp_path))
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2, "whoever splits the file at line breaks reads whole documents"
    assert [line["text"] for line in lines] == [answer(text), text]
    assert lines[0]["predictions"][0]["desc"] == Detection(text, (0, 0, 1, 1)).desc
    assert list(json.loads((folder / "report.json").read_text(encoding="utf-8"))["splits"]) == [text]
    assert (folder / "gallery.png").is_file()


@pytest.mark.invariant("ART-016")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_name_stands_in_the_terminal_s_table_as_it_is(text: str) -> None:
    truth = ImageTruth("a", 10, 10, (Detection(text, (0, 0, 5, 5)),), split=text)
    report = evaluate_detections([truth], [ImagePrediction("a", truth.objects)])
    stream = StringIO()
    Console(file=stream, width=30_000).print(build_summary_table(report))
    shown = stream.getvalue()
    shown.encode("utf-8")
    assert all(word in shown for word in plain(text).split())
    assert ("[bold]x[/bold] [/] [link=a]b :warning:" in shown) == (text == TEXTS["markup"])


@pytest.mark.invariant("ART-016")
@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=30))
def test_json_files_give_back_every_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("text")
    # A reader that joins two halves of a pair sees one character, whichever way the pair is written.
    same = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    whole = json.loads(write_json(folder / "a.json", {text: [text]}).read_bytes())
    lines = write_json_lines(folder / "a.jsonl", [{"text": text}] * 2).read_text(encoding="utf-8").splitlines()
    assert whole in ({text: [text]}, {same: [same]})
    assert [json.loads(line)["text"] in (text, same) for line in lines] == [True, True]
    shown = plain(text, 20)
    assert len(shown) <= 20 and "\n" not in shown
    shown.encode("utf-8")


@pytest.mark.invariant("ART-016")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_results_hold_any_category_s_predictions(cut_encoder: Encoder, tmp_path: Path, text: str) -> None:
    evaluation = named(said(cut_encoder, tmp_path, [answer(text)]), text)
    (truth,) = evaluation.scored.truth
    box = truth.objects[0].box
    row = FileRow((box[0], box[1], box[2] - box[0], box[3] - box[1]), 50.0, 0)
    annotated = replace(truth, annotated=FileImage("id " + text, truth.shown, (row,)))
    desc = evaluation.scored.predictions[0].detections[0].desc
    read = AnnotatedSet(tmp_path / "a.json", "0" * 64, (annotated,), {desc: 1}, 0, (text,), 0)
    scored = replace(evaluation.scored, truth=(annotated,))
    folder = write_evaluation(tmp_path / "out", replace(evaluation, scored=scored, annotations=read), about(tmp_path))
    (result,) = json.loads((folder / "coco_results.json").read_bytes())
    assert (result["image_id"], result["category_id"]) == ("id " + text, 1)


@pytest.mark.invariant("ART-015")
def test_a_picture_that_fails_is_named_and_costs_nothing_else(
    cut_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = said(cut_encoder, tmp_path, [answer("red square")] * 3)
    (tmp_path / "0.png").write_bytes(b"no picture")
    (tmp_path / "1.png").unlink()
    folder = write_evaluation(tmp_path / "out", evaluation, about(tmp_path))
    assert "0.png is left out of the gallery" in caplog.text and "1.png is left out of the gallery" in caplog.text
    assert json.loads((folder / "report.json").read_bytes())["images"] == 3
    with Image.open(folder / "gallery.png") as page:
        assert page.height < 600, "the third stands alone"
    (tmp_path / "2.png").unlink()
    write_evaluation(folder, evaluation, about(tmp_path))
    assert "gallery.png is not written: none of its pictures can be drawn" in caplog.text
    assert not (folder / "gallery.png").exists(), "that of the earlier evaluation is not this one's"
    assert (folder / "report.json").is_file() and (folder / "predictions.jsonl").is_file()


@pytest.mark.invariant("ART-015")
@pytest.mark.parametrize("fault", [OSError("cannot open resource"), ValueError("x1 must be greater"), MemoryError()])
def test_report_and_predictions_are_there_before_anything_is_drawn(
    cut_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """A font that cannot be read, and what Pillow raises while drawing: the machine's fault, so a stub shows it."""
    evaluation = said(cut_encoder, tmp_path, [answer("red square")])
    there = []

    def broken(*_: Any) -> Any:
        there.append(sorted(path.name for path in (tmp_path / "out").iterdir()))
        raise fault

    monkeypatch.setattr(ImageFont, "truetype", broken)
    gallery.load_font.cache_clear()
    write_evaluation(tmp_path / "out", evaluation, about(tmp_path))
    assert there[0] == ["predictions.jsonl", "report.json"]
    assert "0.png is left out of the gallery" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.jsonl", "report.json"]


@pytest.mark.invariant("ART-017")
def test_captions_name_records_from_their_folder(cut_encoder: Encoder, tmp_path: Path) -> None:
    evaluation = said(cut_encoder, tmp_path, ["no answer"])
    folder = write_evaluation(tmp_path / "out", evaluation, about(tmp_path))
    truth, answer_ = evaluation.scored.truth[0], evaluation.scored.predictions[0]
    picture = Image.new("RGB", (96, 64), (250, 250, 250))

    def caption(name: str) -> bytes:
        page = render_gallery([GalleryItem(picture, truth, answer_, name)])
        return page.crop((0, 80, *page.size)).tobytes()

    with Image.open(folder / "gallery.png") as page:
        written = page.convert("RGB").crop((0, 80, *page.size)).tobytes()
    assert written == caption("val.jsonl:1") != caption(truth.sample_id)
    moved = replace(about(tmp_path), jsonl=tmp_path / "elsewhere" / "val.jsonl")
    moved.jsonl.parent.mkdir()
    moved.jsonl.write_text("{}\n")
    folder = write_evaluation(tmp_path / "out", evaluation, moved)
    with Image.open(folder / "gallery.png") as page:
        assert page.convert("RGB").crop((0, 80, *page.size)).tobytes() == written


def test_truth_of_a_record_is_what_the_examples_are_about() -> None:
    record = Record("a:1", ("a.png",), 96, 64, (CoordObject("x", "bbox_2d", (0, 0, 999, 999)),))
    assert build_truth(record).objects[0].box == (0, 0, 95, 63)
