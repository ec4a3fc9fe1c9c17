"""The report on an annotation file equals pycocotools run by hand on that file and the results that are written."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.artifacts.evaluation_files import coco_results
from coordexp.data.types import Record
from coordexp.evaluation.annotated import AnnotatedSet, read_annotations
from coordexp.evaluation.coco import SUMMARY_NAMES, UNLIMITED_NAMES, evaluate_coco, evaluate_fast
from coordexp.evaluation.report import evaluate_detections
from coordexp.evaluation.runner import Scored
from coordexp.evaluation.types import Detection, ImagePrediction

NAMES = ("cat", "dog", "cow")
SIDE = 200


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    """x, y, width, height on a coarse grid, so that IoUs of 0.5 exactly, equal boxes and empty ones occur."""
    step = draw(st.sampled_from((10, 10.1)))
    x, y = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    return [x * step, y * step, draw(st.integers(0, 8)) * step, draw(st.integers(0, 8)) * step]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Any], dict[int, list[Detection]]]:
    """An annotation file and the answers to its images: crowds, areas of their own, empty images, ties."""
    images = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5, unique=True))
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 14))):
        box = draw(boxes())
        area = draw(st.sampled_from((box[2] * box[3], 500.0, 2000.0, 20000.0)))
        row = {"image_id": draw(st.sampled_from(images)), "category_id": draw(st.integers(1, 3)), "bbox": box}
        rows.append(row | {"id": len(rows) + 1, "area": area, "iscrowd": int(draw(st.integers(0, 3)) == 0)})
    answers: dict[int, list[Detection]] = {number: [] for number in images}
    for _ in range(draw(st.integers(0, 20))):
        x, y, w, h = draw(boxes())
        if rows and draw(st.booleans()):
            x, y, w, h = draw(st.sampled_from(rows))["bbox"]
        score, desc = draw(st.sampled_from((0.25, 0.5, 1.0))), draw(st.sampled_from((*NAMES, "emu")))
        answers[draw(st.sampled_from(images))].append(Detection(desc, (x, y, x + w, y + h), score))
    if draw(st.integers(0, 3)) == 0:
        crowd = [Detection("cat", (k % 19, k // 19, k % 19 + 20, k // 19 + 20), 0.5) for k in range(104)]
        answers[images[0]] += crowd
    file = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE} for number in images],
        "annotations": rows,
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
    }
    return file, answers


def compared(file: dict[str, Any], answers: dict[int, list[Detection]], folder: Path) -> tuple[Scored, AnnotatedSet]:
    """The answers compared with the annotation file, through the reader that `evaluate` uses."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    records = [Record(f"r.jsonl:{n}", (f"{n}.png",), SIDE, SIDE, (), metadata={"image_id": n}) for n in answers]
    read = read_annotations(path, folder / "r.jsonl", records)
    found = tuple(ImagePrediction(f"r.jsonl:{n}", tuple(given)) for n, given in answers.items())
    return Scored(evaluate_detections(read.truths, found), read.truths, found), read


def by_hand(path: Path, results: list[dict[str, Any]], limits: tuple[int, int, int]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def known(value: float | None) -> float:
    return -1.0 if value is None else value


@pytest.mark.invariant("EVAL-042")
@pytest.mark.invariant("EVAL-045")
@settings(max_examples=150)
@given(worlds())
def test_every_number_is_that_of_pycocotools_on_the_file_itself(world: Any) -> None:
    file, answers = world
    with tempfile.TemporaryDirectory() as folder:
        scored, read = compared(file, answers, Path(folder))
        results = json.loads(json.dumps(list(coco_results(scored, read))))
        if not results:
            assert scored.report.coco.summary["mAP"] in (None, 0.0)
            return
        oracle = by_hand(read.path, results, (1, 10, 100))
        ours = [known(scored.report.coco.summary[name]) for name in SUMMARY_NAMES]
        assert ours == pytest.approx(list(oracle.stats), abs=1e-9)


@pytest.mark.invariant("EVAL-042")
@pytest.mark.invariant("EVAL-043")
@settings(max_examples=60)
@given(worlds(), st.sampled_from(((1, 2, 3), (1, 10, 50), (2, 3, 1000))))
def test_other_limits_and_none_are_those_of_pycocotools(world: Any, limits: tuple[int, int, int]) -> None:
    file, answers = world
    with tempfile.TemporaryDirectory() as folder:
        scored, read = compared(file, answers, Path(folder))
        results = list(coco_results(scored, read))
        if not results:
            return
        metrics = evaluate_coco(scored.truth, {answer.sample_id: answer for answer in scored.predictions}, limits)
        # pycocotools' own summary asks for a limit of 100 in mAP, whatever was given; its arrays hold all.
        narrow, wide = (by_hand(read.path, results, given).stats for given in (limits, (1, 10, 1000)))
        assert [known(metrics.summary[name]) for name in SUMMARY_NAMES[1:]] == pytest.approx(list(narrow[1:]), abs=1e-9)
        chosen = [*wide[1:6], *wide[8:12]]
        assert [known(metrics.unlimited[name]) for name in UNLIMITED_NAMES[1:]] == pytest.approx(chosen, abs=1e-9)
        most = [max((sum(d.desc == name for d in given) for name in NAMES), default=0) for given in answers.values()]
        present = {row["category_id"] for row in file["annotations"] if not row["iscrowd"]}
        if present == {1, 2, 3}:
            assert metrics.images_over_limit == sum(count > limits[-1] for count in most)


@pytest.mark.invariant("EVAL-042")
@settings(max_examples=60)
@given(worlds())
def test_a_region_of_any_description_is_a_crowd_of_every_category(world: Any) -> None:
    """The same regions once written for each category in the file, once without a description."""
    from dataclasses import replace

    from coordexp.data.regions import IgnoreRegion

    file, answers = world
    with tempfile.TemporaryDirectory() as folder:
        scored, _ = compared(file, answers, Path(folder))
    plain = [replace(image, annotated=None) for image in scored.truth]
    names = sorted({obj.desc for image in plain for obj in image.objects})
    everywhere = [replace(image, ignore=(IgnoreRegion(None, (0, 0, 90, 90)),)) for image in plain]
    each = [replace(image, ignore=tuple(IgnoreRegion(name, (0, 0, 90, 90)) for name in names)) for image in plain]
    found = {answer.sample_id: answer for answer in scored.predictions}
    assert evaluate_coco(everywhere, found) == evaluate_coco(each, found)


@pytest.mark.invariant("EVAL-042")
@pytest.mark.parametrize("turned", [False, True])
def test_ties_fall_as_the_file_s_order_has_it(tmp_path: Path, turned: bool) -> None:
    """The first prediction fits both objects alike; which one it takes decides what is left for the second."""
    file = {
        "images": [{"id": 1, "file_name": "1.png", "width": SIDE, "height": SIDE}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "area": 100, "iscrowd": 0}
            for number, x in enumerate((3, 1) if turned else (1, 3), 1)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    found = [Detection("cat", (2, 0, 12, 10), 0.9), Detection("cat", (0, 0, 10, 10), 0.5)]
    scored, read = compared(file, {1: found}, tmp_path)
    oracle = by_hand(read.path, list(coco_results(scored, read)), (1, 10, 100))
    assert scored.report.coco.summary["mAP75"] == pytest.approx(oracle.stats[2], abs=1e-9)
    assert (oracle.stats[2] < 0.9) == turned


@pytest.mark.invariant("EVAL-085")
@settings(max_examples=40, deadline=None)
@given(worlds())
def test_both_engines_give_the_same_digits(world: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scored, _ = compared(*world, Path(folder))
    truth, answers = scored.truth, {answer.sample_id: answer for answer in scored.predictions}
    slow, fast = evaluate_coco(truth, answers), evaluate_fast(truth, answers)
    assert (slow.engine, fast.engine) == ("pycocotools", "hotcoco")
    assert dict(fast.summary) == pytest.approx(dict(slow.summary), abs=1e-9)
    assert dict(fast.unlimited) == pytest.approx(dict(slow.unlimited), abs=1e-9)
    assert fast.images_over_limit == slow.images_over_limit
    assert list(fast.per_class) == list(slow.per_class)
    for name, numbers in slow.per_class.items():
        assert fast.per_class[name] == pytest.approx(numbers, abs=1e-9)
    tight = [evaluate_coco(truth, answers, (1, 2, 3), engine).summary for engine in ("pycocotools", "hotcoco")]
    assert dict(tight[1]) == pytest.approx(dict(tight[0]), abs=1e-9)
