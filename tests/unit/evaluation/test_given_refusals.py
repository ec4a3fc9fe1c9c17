"""`evaluate --predictions`: what cannot be scored, and what does not go together, is refused in one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.artifacts.evaluation_files import write_evaluation
from coordexp.entrypoints.evaluate import main
from tests.plugins.found_files import Kitchen, kitchen
from tests.plugins.given_answers import cooked, fill, spoken, written

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

__all__ = ["kitchen"]


SOUND = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
FAULTS: dict[str, tuple[Any, str]] = {
    "unknown image": (
        [SOUND, SOUND | {"image_id": 99}, SOUND | {"image_id": 98}],
        "2 of 3 results have image_ids that the annotation file lacks: 99 in [1], 98 in [2]",
    ),
    "many unknown images": (
        [SOUND | {"image_id": n} for n in range(50, 60)],
        "50 in [0], 51 in [1], 52 in [2] and 7 more",
    ),
    "image id as text": ([SOUND | {"image_id": "1"}], "image_ids are texts here and numbers there, which never match"),
    "unknown category": ([SOUND | {"category_id": 70}], "have category_ids that the annotation file lacks: 70 in [0]"),
    "no score": ([SOUND, {k: v for k, v in SOUND.items() if k != "score"}], "[1].score (image id 1): missing"),
    "score as text": ([SOUND | {"score": "0.5"}], "[0].score (image id 1): a score is a number, got the text"),
    "score null": ([SOUND | {"score": None}], "[0].score (image id 1): a score is a number, got null"),
    "NaN": ("[" + json.dumps(SOUND | {"score": float("nan")}) + "]", "NaN is not a number in JSON"),
    "infinite": ("[" + json.dumps(SOUND | {"score": float("inf")}) + "]", "Infinity is not a number in JSON"),
    "too large": (
        '[{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 1e999}]',
        "larger than any number",
    ),
    "negative width": (
        [SOUND | {"bbox": [9, 9, -3, 4]}],
        "[0].bbox (image id 1): width and height are 0 or more, got [9, 9, -3, 4]",
    ),
    "three numbers": (
        [SOUND | {"bbox": [9, 9, 3]}],
        "[0].bbox (image id 1): it is a list of four numbers, got 3: [9, 9, 3]",
    ),
    "text in a box": ([SOUND | {"bbox": [9, 9, "3", 4]}], "[0].bbox[2] (image id 1): a number in pixels, got the text"),
    "beyond": ([SOUND | {"bbox": [9, 9, 3e9, 4]}], "[0].bbox[2] (image id 1): a number in pixels"),
    "masks alone": (
        [{"image_id": 1, "category_id": 7, "segmentation": [[1, 2, 3, 4, 5, 6]], "score": 0.5}],
        "[0].bbox (image id 1): missing, though there is a segmentation: no box is guessed",
    ),
    "no category": (
        [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "category_name": "cell"}],
        "[0].category_id (image id 1): missing",
    ),
    "half an id": ([SOUND | {"image_id": 1.5}], "[0].image_id"),
    "no object": ([SOUND, 5], "[1]: it is an object, got 5"),
    "cut short": (json.dumps([SOUND])[:-9], "the file ends in the middle"),
    "an object": ({"results": [SOUND]}, "no line of an evaluation"),
    "an object of annotations": ({"annotations": [SOUND]}, "they are COCO annotations, what to compare with"),
    "annotations": (
        {"images": [], "annotations": [], "categories": []},
        "they are COCO annotations, what to compare with",
    ),
    "indented": ("{\n}", "no JSON"),
    "empty": ("", "holds no line"),
}


@pytest.mark.invariant("EVAL-089")
@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_file_that_cannot_be_scored_is_refused_by_its_place(
    kitchen: Kitchen, tmp_path: Path, capsys: Any, content: Any, message: str
) -> None:
    fill(kitchen)
    annotations, results = written(kitchen, content, tmp_path)
    if isinstance(content, str):
        results.write_text(content, encoding="utf-8")
    given = ["--predictions", str(results), "--annotations", str(annotations), "--out", str(tmp_path / "e")]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith("evaluate: ") and said.count("\n") == 1 and "Traceback" not in said
    assert str(results) in said and message in said
    assert not (tmp_path / "e").exists()


@pytest.mark.invariant("EVAL-089")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, lines[0]], ":5: answers "),
        (
            lambda lines: [lines[0], lines[1].replace('"width": 333', '"width": NaN')],
            ":2: no JSON: NaN is not a number",
        ),
        (lambda lines: [lines[0], lines[1].replace('"width": 333', '"width": 1e999')], ":2: no JSON: 1e999 is larger"),
        (lambda lines: [lines[0], lines[1].replace('"score": 1.0', '"score": "1"')], ":2: no line of an evaluation"),
        (
            lambda lines: [lines[0], lines[1].replace('"constant"', '"given"')],
            "scores of several kinds: constant, given",
        ),
        (lambda lines: ["[" + ", ".join(lines) + "]"], "[0].image_id"),
    ],
    ids=["a line twice", "NaN", "infinite", "a score as text", "two kinds of scores", "lines as a list"],
)
def test_a_line_that_is_none_of_an_evaluation_is_refused(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any, change: Any, message: str
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, annotations), about) / "predictions.jsonl"
    made.write_text("\n".join(change(made.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    assert main(["--predictions", str(made), "--annotations", str(annotations), "--jsonl", str(jsonl)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"evaluate: {made}") and message in said and said.count("\n") == 1


@pytest.mark.invariant("EVAL-089")
def test_a_turned_box_other_records_and_the_file_itself_are_refused(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any
) -> None:
    jsonl, _, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, None), about) / "predictions.jsonl"
    kept = made.read_bytes()
    assert main(["--predictions", str(made), "--limit", "1", "--out", str(made.parent)]) == 1
    assert "predictions.jsonl there is the file that is read, and would be lost" in capsys.readouterr().err
    assert made.read_bytes() == kept
    other = tmp_path / "other.jsonl"
    lines = jsonl.read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n", encoding="utf-8")
    assert main(["--predictions", str(made), "--jsonl", str(other)]) == 1
    assert "and line 1 there is another record; give the file that was answered" in capsys.readouterr().err
    other.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    assert main(["--predictions", str(made), "--jsonl", str(other)]) == 1
    assert "and line 3 there is missing" in capsys.readouterr().err
    first, *rest = (json.loads(line) for line in kept.decode().splitlines())
    x1, y1, x2, y2 = first["predictions"][0]["box"]
    first["predictions"][0]["box"] = [x2, y1, x1, y2]
    made.write_text("\n".join(map(json.dumps, [first, *rest])), encoding="utf-8")
    assert main(["--predictions", str(made)]) == 1
    assert f"{made}:1: the box [{x2}, {y1}, {x1}, {y2}] is x1, y1, x2, y2 with x1 > x2" in capsys.readouterr().err


@pytest.mark.invariant("EVAL-090")
@pytest.mark.parametrize(
    "flags",
    [
        ("--config", "c.yaml"),
        ("--checkpoint", "c"),
        ("--max-new-tokens", "512"),
        ("--batch-size", "32"),
        ("--scores", "confidence"),
        ("--grammar",),
        ("--samples", "2"),
        ("--temperature", "0"),
        ("--top-p", "1"),
        ("--top-k", "1"),
        ("--batch-size", "0", "--grammar"),
    ],
    ids=" ".join,
)
def test_options_of_generation_are_refused_by_name(tmp_path: Path, capsys: Any, flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--predictions", str(tmp_path / "predictions.jsonl"), *flags])
    names = ", ".join(flag for flag in flags if flag.startswith("--"))
    assert stopped.value.code == 2
    assert f"{names}: --predictions FILE makes no answers" in capsys.readouterr().err


@pytest.mark.invariant("EVAL-090")
def test_without_predictions_a_model_is_asked_for(capsys: Any) -> None:
    for flags, message in (
        ([], "--config and --checkpoint is needed, or --predictions FILE"),
        (["--config", "c.yaml"], "--checkpoint is needed"),
        (["--config", "c.yaml", "--checkpoint", "c", "--images", "d"], "--images: it is for COCO results"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(flags)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.invariant("EVAL-090")
def test_what_does_not_go_together_is_refused(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = str(write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, annotations), about) / "predictions.jsonl")
    results = str(tmp_path / "e/coco_results.json")
    images = ["--images", str(tmp_path / "images")]
    file = ["--annotations", str(annotations)]
    for flags, message in (
        ([results], "they are COCO results, which name images and categories by the ids of an annotation file"),
        ([results, *file, "--images", str(tmp_path / "none")], "no such folder"),
        ([results, *file, "--jsonl", str(jsonl), *images], "the images' places are known already"),
        ([results, *file, "--limit", "0"], "the limit must be at least 1, got 0"),
        ([made, *images], "the images' places are known already"),
        ([made, *file], "give them with --jsonl FILE too"),
        ([made, "--limit", "-1"], "the limit must be at least 1, got -1"),
        ([str(tmp_path / "none.json")], "cannot be read (No such file or directory)"),
        ([str(tmp_path)], "cannot be read (Is a directory)"),
        ([results, "--annotations", str(tmp_path / "none.json")], "cannot be read (No such file or directory)"),
        ([results, "--annotations", results], "COCO's results format"),
    ):
        assert main(["--predictions", *flags]) == 1
        said = capsys.readouterr().err
        assert message in said and said.startswith("evaluate: ") and said.count("\n") == 1
