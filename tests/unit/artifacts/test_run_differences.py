"""What differs between two runs, told by whether it could change results. Contract ids: ART-080..ART-083."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.artifacts.compared_runs import compare_folders, find_run
from coordexp.artifacts.comparison_files import DOCUMENT_NAME, PAGE_NAME, write_comparison
from coordexp.artifacts.run_differences import ABSENT, find_differences
from coordexp.entrypoints import compare
from coordexp.evaluation.bootstrap import Resampling
from coordexp.evaluation.report import EvaluationError, evaluate_detections, render_report
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth
from coordexp.spec import check

MANIFEST: dict[str, Any] = {
    "created_at": "2026-01-01T00:00:00+00:00",
    "command": ["train", "--config", "a.yaml"],
    "config": {
        "resolved": {
            "training": {"learning_rate": 1e-4, "output_dir": "out/a", "seed": 17, "logging_steps": 10},
            "custom": {"train_jsonl": "a/train.jsonl"},
            "stage2_ab": {"schedule": {"b_ratio": 0.25}},
        },
        "sources": [{"path": "a.yaml", "sha256": "0" * 64}],
    },
    "seeds": {"training": 17},
    "pipeline": {"objective": [{"name": "token_ce", "weight": 1.0}, {"name": "bbox_geo", "weight": 0.5}]},
    "data": {"train": {"path": "a/train.jsonl", "sha256": "1" * 64, "records": 10}},
    "versions": {"torch": "2.13.0"},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The manifest with another value at a path of keys and indices."""
    found = copy.deepcopy(MANIFEST)
    *parents, last = path.split("/")
    place: Any = found
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return found


@pytest.mark.invariant("ART-080")
@pytest.mark.parametrize(
    ("path", "value", "key", "matters"),
    [
        ("config/resolved/training/learning_rate", 2e-4, "config.resolved.training.learning_rate", True),
        ("config/resolved/training/seed", 18, "config.resolved.training.seed", True),
        ("config/resolved/stage2_ab/schedule/b_ratio", 0.5, "config.resolved.stage2_ab.schedule.b_ratio", True),
        ("pipeline/objective/1/weight", 0.4, "pipeline.objective[1].weight", True),
        ("data/train/sha256", "2" * 64, "data.train.sha256", True),
        ("versions/torch", "2.12.0", "versions.torch", True),
        ("seeds/training", 18, "seeds.training", True),
        ("created_at", "2026-02-02T00:00:00+00:00", "created_at", False),
        ("command/2", "b.yaml", "command[2]", False),
        ("config/sources/0/sha256", "3" * 64, "config.sources[0].sha256", False),
        ("config/resolved/training/output_dir", "out/b", "config.resolved.training.output_dir", False),
        ("config/resolved/training/logging_steps", 1, "config.resolved.training.logging_steps", False),
        ("config/resolved/custom/train_jsonl", "b/train.jsonl", "config.resolved.custom.train_jsonl", False),
        ("data/train/path", "b/train.jsonl", "data.train.path", False),
    ],
)
def test_one_changed_value_is_one_difference(path: str, value: object, key: str, matters: bool) -> None:
    (found,) = find_differences(MANIFEST, changed(path, value))
    assert (found.key, found.second, found.matters) == (key, value, matters)
    assert found.first != value


@pytest.mark.invariant("ART-080")
def test_a_key_that_one_side_lacks_differs() -> None:
    other = copy.deepcopy(MANIFEST)
    del other["config"]["resolved"]["stage2_ab"]
    other["pipeline"]["objective"].append({"name": "coord_reg", "weight": 1.0})
    found = {one.key: (one.first, one.second) for one in find_differences(MANIFEST, other)}
    assert found == {
        "config.resolved.stage2_ab.schedule.b_ratio": (0.25, ABSENT),
        "pipeline.objective[2].name": (ABSENT, "coord_reg"),
        "pipeline.objective[2].weight": (ABSENT, 1.0),
    }
    assert find_differences(MANIFEST, copy.deepcopy(MANIFEST)) == []


def evaluation(folder: Path, *, found: int, desc: str = "cat", lines: int = 3) -> Path:
    """An evaluation folder of `lines` images with one object each, of which the first `found` are answered."""
    folder.mkdir(parents=True)
    box = (8.0, 8.0, 40.0, 40.0)
    truth = [ImageTruth(f"/data/val.jsonl:{n}", 64, 64, (Detection(desc, box),)) for n in range(1, lines + 1)]
    answers = [
        ImagePrediction(image.sample_id, (Detection(desc, box, 0.5),) if number < found else ())
        for number, image in enumerate(truth)
    ]
    (folder / "report.json").write_text(json.dumps(render_report(evaluate_detections(truth, answers))))
    rows = []
    for image, answer in zip(truth, answers, strict=True):
        picture = folder / f"{image.sample_id.rsplit(':', 1)[1]}.png"
        Image.new("RGB", (64, 64), "white").save(picture)
        row = {
            "sample_id": image.sample_id, "image": str(picture), "width": 64, "height": 64, "text": "",
            "finish_reason": "stop", "response_tokens": 1, "truncated": False, "failure": None, "dropped": [],
            "predictions": [{"desc": d.desc, "box": list(d.box), "score": d.score} for d in answer.detections],
            "ground_truth": [{"desc": d.desc, "box": list(d.box), "score": 1.0} for d in image.objects],
        }  # fmt: skip
        rows.append(json.dumps(check("evaluation-prediction", row)))
    (folder / "predictions.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.invariant("ART-082")
def test_evaluations_are_compared_on_the_records_that_both_answered(tmp_path: Path) -> None:
    first, second = evaluation(tmp_path / "a", found=1), evaluation(tmp_path / "b", found=2, lines=2)
    compared = compare_folders(first, second, None, Resampling(10))
    assert compared.differences is None
    assert compared.comparison is not None
    assert (compared.comparison.first.images, len(compared.comparison.found_once)) == (2, 1)
    assert compared.comparison.found_once[0].image == 1


@pytest.mark.invariant("ART-082")
def test_evaluations_of_other_records_and_empty_folders_are_refused(tmp_path: Path) -> None:
    first, second = evaluation(tmp_path / "a", found=1), evaluation(tmp_path / "b", found=1, desc="dog")
    with pytest.raises(EvaluationError, match="line 1 with another truth"):
        compare_folders(first, second, None, Resampling(10))
    (tmp_path / "none").mkdir()
    with pytest.raises(EvaluationError, match=r"holds neither run_manifest\.json nor report\.json"):
        find_run(tmp_path / "none")
    with pytest.raises(EvaluationError, match="no such folder"):
        find_run(tmp_path / "absent")
    evaluation(tmp_path / "run" / "x", found=1)
    evaluation(tmp_path / "run" / "y", found=1)
    with pytest.raises(EvaluationError, match=r"2 evaluations \(x, y\); choose one with --evaluation"):
        find_run(tmp_path / "run")
    assert find_run(tmp_path / "run", "y").evaluation is not None


@pytest.mark.invariant("ART-083")
def test_a_page_with_pictures_is_written_and_a_lost_picture_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = evaluation(tmp_path / "a <b>", found=0), evaluation(tmp_path / "b", found=3)
    (first / "2.png").unlink()
    out = write_comparison(tmp_path / "out", compare_folders(first, second, None, Resampling(10)), pictures=2)
    page = (out / PAGE_NAME).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page
    assert "2.png" in caplog.text
    document = check("run-comparison", json.loads((out / DOCUMENT_NAME).read_text()))
    assert (document["evaluation"]["only_first"], document["evaluation"]["only_second"]) == (0, 3)


@pytest.mark.invariant("ART-083")
def test_the_command_prints_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = evaluation(tmp_path / "a [v2]", found=1), evaluation(tmp_path / "b", found=2)
    assert compare.main([str(first), str(second), "--resamples", "10"]) == 0
    out = capsys.readouterr().out
    assert "a [v2]" in out
    assert "objects that B alone finds: 1, A alone: 0" in out
    assert compare.main([str(first), str(tmp_path / "absent")]) == 1
    assert "compare: " in capsys.readouterr().err
