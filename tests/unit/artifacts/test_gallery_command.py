"""The gallery of a real small run: its training steps, its evaluations, and what evaluate made of its model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from coordexp.artifacts.files import write_json_lines
from coordexp.evaluation.gallery import CLOSE, FOUND, IGNORED, LOOSE, MISSED, WRONG
from coordexp.evaluation.plain_text import plain
from coordexp.spec import check
from tests.plugins.left import EVAL, MATCHED, SCORED, SOURCES, TRAIN, Cards, counts, of_kind, told

if TYPE_CHECKING:
    from tests.plugins.left import Left

TEXTS = {
    "script": "</pre><script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)',
    "bidi": "\u202egnp.exe\u2066",
    "half a pair": "a\ud800b\udfffc",
    "control characters": "".join(map(chr, range(32))) + "\x7f\u2028",
    "template": "{{ 7 * 7 }} {% for %} [bold]x[/bold]",
    "nothing": "",
}


@pytest.mark.invariant("EVAL-078")
def test_answers_of_all_kinds_are_drawn_as_they_were_judged(left: Left) -> None:
    assert left.draw("--order", "file") == 0
    cards = left.page().cards
    assert {kind: len(of_kind(cards, kind)) for kind in SOURCES} == SOURCES
    trained = [*left.lines(TRAIN), *left.lines("rollouts/step_000001.jsonl")]
    assert [counts(card) for card in of_kind(cards, "train")] == [told(line) for line in trained]
    assert [card["data-step"] for card in of_kind(cards, "train")] == ["0"] * 6 + ["1"] * 6
    assert [counts(card) for card in of_kind(cards, "eval")] == [told(line) for line in left.lines(EVAL)]
    for card, line in zip(of_kind(cards, "train"), trained, strict=True):
        assert all(item["desc"] in card["text"] for item in [*line["objects"], *line["ground_truth"]] if "desc" in item)
        assert line["text"] in card["text"]
        assert ("does not parse" in card["text"]) == (line["parse"]["failure"] is not None)
    report = check("evaluation-report", json.loads((left.folder / "on val/report.json").read_bytes()))
    sums = tuple(map(sum, zip(*map(counts, of_kind(cards, "evaluation")), strict=True)))
    names = ("true_positives", "false_positives", "false_negatives")
    assert sums == tuple(report["detection"][name] for name in names)
    objects = report["ground_truth_objects"]
    for place, recall in enumerate(report["samples"]["recall"]):
        found = sum(counts(card)[0] for card in of_kind(cards, "sampled") if f"sample {place + 1}:" in card["text"])
        assert found / objects == pytest.approx(recall)


@pytest.mark.invariant("EVAL-078")
def test_what_a_dump_states_is_drawn_and_not_matched_again(left: Left) -> None:
    """A pair that no matching would make, and a prediction that was set aside."""
    line = {
        "objects": [
            {"fate": "matched", "desc": "cat", "kind": "bbox_2d", "bins": [0, 0, 100, 100], "truth": 0, "iou": 0.31},
            {"fate": "ignored", "desc": "emu", "kind": "bbox_2d", "bins": [300, 300, 500, 500]},
            {"fate": "fp", "desc": "dog", "kind": "poly", "bins": [500, 500, 900, 500, 700, 900]},
            {"fate": "wrong_arity", "excerpt": "[1, 2]"},
        ],
        "ground_truth": [
            {"desc": "ox", "kind": "bbox_2d", "bins": [600, 600, 900, 900]},
            {"desc": "dog", "kind": "bbox_2d", "bins": [500, 500, 900, 900]},
        ],
        "missed": [1],
    }
    left.change(EVAL, **line)
    assert left.draw("--order", "file", place=left.folder / EVAL) == 0
    card = left.page("rollouts/gallery").cards[0]
    assert counts(card) == (1, 1, 1) and "1 not scored, F1 0.5000" in card["text"]
    fates = "matched cat IoU 0.31, annotated as ox", "not scored emu", "wrong dog", "missed dog", "dropped [1, 2]"
    assert all(words in " ".join(card["text"].split()) for words in fates)
    with Image.open(left.folder / "rollouts/gallery/sheets/01-eval-01.png") as sheet:
        first = dict((colour, count) for count, colour in sheet.crop((16, 100, 400, 484)).getcolors(1 << 24))
    assert all(first.get(colour, 0) > 100 for colour in (LOOSE, IGNORED, WRONG, MISSED, FOUND)) and CLOSE not in first


@pytest.mark.invariant("EVAL-078")
def test_truth_in_pixels_of_an_annotation_file_is_drawn_on_the_image_that_was_shown(left: Left) -> None:
    def doubled(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry | {"box": [2 * value for value in entry["box"]]} for entry in entries]

    def drawn(out: str) -> tuple[tuple[int, ...], bytes]:
        assert left.draw("--order", "file", "--out", str(left.folder / out), place=left.folder / SCORED) == 0
        card = left.page(out).cards[2]
        return counts(card), (left.folder / out / card["src"]).read_bytes()

    lines, before = left.lines(SCORED), drawn("before")
    line = lines[2]
    rows = [{"bbox": [0, 0, 1, 1], "area": 1.0, "place": place} for place, _ in enumerate(line["ground_truth"])]
    lines[2] = line | {
        "width": 2 * line["width"],
        "height": 2 * line["height"],
        "ground_truth": doubled(line["ground_truth"]),
        "predictions": doubled(line["predictions"]),
        "annotated": {"image_id": 1, "shown": [line["width"], line["height"]], "rows": rows},
    }
    write_json_lines(left.folder / SCORED, lines)
    assert drawn("after") == before


@pytest.mark.invariant("EVAL-079")
def test_the_page_needs_nothing_but_the_pictures_beside_it(left: Left) -> None:
    assert left.draw("--order", "file") == 0
    moved = Path(shutil.move(left.folder / "gallery", left.folder.parent / "moved"))
    text = (moved / "gallery.html").read_text(encoding="utf-8")
    page = Cards(text)
    links = {found[name] for _, found in page.tags for name in ("src", "href") if name in found}
    files = {path.relative_to(moved).as_posix() for path in moved.rglob("*") if path.is_file()}
    assert links == files - {"gallery.html"} and len(links) == sum(SOURCES.values()) + len(SOURCES)
    assert "http" not in text and "url(" not in text and "import" not in text
    assert {"part", "kind", "step", "desc", "order", "shown", "cards"} <= {found.get("id") for _, found in page.tags}
    for card in page.cards:
        descs = card["data-desc"].split("\n")
        assert all(desc and desc in card["text"] for desc in descs)
    for colour in ("rgb(16, 150, 72)", "rgb(220, 30, 40)", "rgb(200, 0, 190)", "rgb(140, 146, 156)"):
        assert colour in text
    assert "missed (FN)" in page.text and "wrong prediction (FP)" in page.text


@pytest.mark.invariant("EVAL-079")
def test_a_sheet_and_each_picture_show_found_wrong_and_missed(left: Left) -> None:
    assert left.draw(place=left.folder / "rollouts") == 0
    out = left.folder / "rollouts/gallery"
    with Image.open(out / "sheets/01-train-01.png") as sheet:
        assert sheet.size == (1616, 76 + 3 * (384 + 52 + 16)), "twelve in three rows"
        below = dict((colour, count) for count, colour in sheet.crop((0, 80, *sheet.size)).getcolors(1 << 24))
    assert all(below.get(colour, 0) > 100 for colour in (CLOSE, LOOSE, WRONG, MISSED))
    for card in of_kind(left.page("rollouts/gallery").cards, "train"):
        with Image.open(out / card["src"]) as picture:
            assert max(picture.size) == 640
            near = [
                sum(abs(one - other) for one, other in zip(seen, MISSED, strict=True)) < 24 for seen in pixels(picture)
            ]
        assert (sum(near) > 50) == (counts(card)[2] > 0)


def pixels(picture: Image.Image) -> list[tuple[int, int, int]]:
    return [colour for count, colour in picture.convert("RGB").getcolors(1 << 24) for _ in range(count)]


@pytest.mark.invariant("EVAL-081")
def test_the_limit_takes_the_worst_of_each_source_and_counts_the_rest(
    left: Left, capsys: pytest.CaptureFixture[str]
) -> None:
    def f1(card: dict[str, str]) -> float:
        found, wrong, missed = counts(card)
        return 2 * found / (2 * found + wrong + missed)

    assert left.draw("--out", str(left.folder / "all")) == 0
    everything = left.page("all").cards
    assert [f1(card) for card in everything] == sorted(f1(card) for card in everything), "on the page, too"
    assert left.draw("--limit", "2") == 0
    said, page = capsys.readouterr().out, left.page()
    assert {kind: len(of_kind(page.cards, kind)) for kind in SOURCES} == dict.fromkeys(SOURCES, 2)
    for kind, total in SOURCES.items():
        assert f"({kind}): 2 of {total} drawn, {total - 2} left out by --limit 2" in said
        assert [f1(card) for card in of_kind(page.cards, kind)] == [f1(card) for card in of_kind(everything, kind)][:2]
    table = page.text.split("contact sheets")[1].split("greedy answers")[0]
    for kind, total in SOURCES.items():
        assert re.search(rf"{kind}\s*{total}\s*2\s*{total - 2}\s*0\s*1\s", table), (
            "answers, drawn, left out, lost, sheet"
        )
    assert left.draw("--limit", "1", "--order", "file") == 0
    first = of_kind(left.page().cards, "train")[0]
    assert first["text"].strip().startswith(Path(left.lines(TRAIN)[0]["sample_id"]).name)
    for limit in ("0", "-1"):
        assert left.draw("--limit", limit) == 1
        assert "--limit" in capsys.readouterr().err


@pytest.mark.invariant("EVAL-082")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_text_of_a_model_is_shown_and_never_obeyed(left: Left, text: str) -> None:
    desc = text or "\u200b"
    line = left.lines(EVAL)[0]
    truth = [item | {"desc": desc} for item in line["ground_truth"]]
    objects = [MATCHED | {"desc": desc}, {"fate": "bad_desc", "excerpt": desc}]
    fault = line["parse"] | {"failure": desc}
    missed = list(range(1, len(truth)))
    left.change(EVAL, text=text, objects=objects, ground_truth=truth, missed=missed, parse=fault)
    found = [{"desc": desc, "box": [1.0, 1.0, 9.0, 9.0], "score": 1.0}]
    left.change(SCORED, text=text, predictions=found, failure={"reason": desc, "message": desc})
    assert left.draw("--order", "file") == 0
    page = left.page()
    cards = [of_kind(page.cards, kind)[0] for kind in ("evaluation", "eval")]
    for card in cards:
        assert plain(desc) in card["text"] and f"does not parse: {plain(desc)}" in card["text"]
        assert plain(desc).lower() in card["data-desc"]
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
