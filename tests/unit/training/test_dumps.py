"""Dumps of a run's answers: what they hold is what was logged and drawn, and no disk ends the run."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from coordexp.artifacts.dump_files import OBSERVED, DumpBounds
from coordexp.artifacts.files import read_json_lines
from coordexp.config import load_config
from coordexp.data.records import read_records
from coordexp.spec import check
from coordexp.training.rollout_dump import RolloutDump
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder
    from tests.plugins.stage2 import Stage2Kit

DUMP = {"enabled": True, "every_steps": 1, "max_samples": 64}
MORE_THAN_ANY_DISK = 1e9
ROLES = [("train", "step_000000.jsonl"), ("val", "eval_000002.jsonl")]


@dataclass(frozen=True)
class Ran:
    """A finished run, and what it has warned of."""

    folder: Path
    log: list[dict[str, float]]
    warnings: list[str]

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [check("rollout-dump", line) for line in read_json_lines(self.folder / "rollouts" / name)]

    def outcomes(self) -> list[tuple[int, float, float, float]]:
        """Step, and dumps written, skipped and failed, of every line that tells of them."""
        kinds = ("written", "skipped", "failed")
        return [
            (int(line["global_step"]), *(line[f"{prefix}rollout/dumps_{kind}_total"] for kind in kinds))
            for line in self.log
            for prefix in ("", "eval_")
            if f"{prefix}rollout/dumps_written_total" in line
        ]


def run(kit: Stage2Kit, name: str, dump: dict[str, Any], in_the_way: bool = False) -> Ran:
    """Two steps and an evaluation; `in_the_way` puts a file where the dumps' folder goes."""
    from coordexp.training.stage2_rollout_aligned import run_stage2_rollout_aligned

    path = kit.write(
        name,
        model={"model": str(EARLY)},
        training={"effective_batch_size": 6, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-4},
        rollout_matching={"decode_batch_size": 6, "max_new_tokens": 160, "monitor_dump": dump},
    )
    folder = path.parent / "run"
    if in_the_way:
        folder.mkdir()
        (folder / "rollouts").write_text("a file")
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("coordexp").addHandler(handler)
    try:
        run_stage2_rollout_aligned(load_config(path))
    finally:
        logging.getLogger("coordexp").removeHandler(handler)
    log = [json.loads(line) for line in (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
    return Ran(folder, log, [record.getMessage() for record in records if "monitor_dump" in record.getMessage()])


@pytest.fixture(scope="module")
def ran(stage2_kit: Stage2Kit) -> Ran:
    return run(stage2_kit, "dumped", DUMP)


@pytest.mark.invariant("ROLL-070")
@pytest.mark.parametrize(("role", "name"), ROLES)
def test_a_dump_holds_what_a_picture_of_it_needs(ran: Ran, stage2_kit: Stage2Kit, role: str, name: str) -> None:
    jsonl = stage2_kit.stage1.train if role == "train" else stage2_kit.stage1.val
    records = {record.source: record for record in read_records(jsonl)}
    manifest = json.loads((ran.folder / "run_manifest.json").read_text(encoding="utf-8"))
    root = Path(manifest["data"][role]["image_root"])
    lines = ran.lines(name)
    assert len({line["sample_id"] for line in lines}) == len(lines) == (6 if role == "train" else 3)
    for line in lines:
        record = records[line["sample_id"]]
        with Image.open(root / line["image"]) as image:
            assert image.size == (line["width"], line["height"]) == (record.width, record.height)
        told = [(item["desc"], item["kind"], item["bins"]) for item in line["ground_truth"]]
        assert sorted(told) == sorted((item.desc, item.kind, list(item.bins)) for item in record.objects)
        matched = [item["truth"] for item in line["objects"] if item["fate"] == "matched"]
        assert sorted([*matched, *line["missed"]]) == list(range(len(record.objects))), "found or missed"
        for item in line["objects"]:
            assert ("iou" in item) == ("truth" in item) == (item["fate"] == "matched")
            assert ("excerpt" in item) != ("bins" in item), "dropped or valid"


@pytest.mark.invariant("ROLL-070")
@pytest.mark.parametrize(("role", "name"), ROLES)
def test_what_is_dumped_adds_up_to_what_is_logged(ran: Ran, role: str, name: str) -> None:
    lines, prefix = ran.lines(name), "" if role == "train" else "eval_"
    logged = next(line for line in ran.log if f"{prefix}rollout/samples_total" in line)
    objects = [item for line in lines for item in line["objects"]]
    fates = [item["fate"] for item in objects]
    valid, hits = sum("bins" in item for item in objects), fates.count("matched")
    truths, missed = (sum(len(line[key]) for line in lines) for key in ("ground_truth", "missed"))
    assert 0 < hits < valid and missed, "something to tell apart"
    assert logged[f"{prefix}rollout/gt_objects_total"] == truths
    assert logged[f"{prefix}rollout/valid_pred_objects_total"] == valid
    assert logged[f"{prefix}rollout/parse_dropped_invalid"] == len(objects) - valid
    assert logged[f"{prefix}rollout/parse_rate"] == pytest.approx(
        sum(line["parse"]["strict"] for line in lines) / len(lines)
    )
    tokens = sum(line["response_tokens"] for line in lines)
    assert logged[f"{prefix}rollout/gen_new_tokens_mean"] == pytest.approx(tokens / len(lines))
    if role == "train":
        assert logged["rollout/matched_total"] == hits and logged["rollout/fn_total"] == missed
        assert logged["rollout/fp_total"] == fates.count("fp")
        assert logged["rollout/fn_appended_total"] == sum(len(line["target"]["appended"]) for line in lines)
        overlaps = [item["iou"] for item in objects if "iou" in item]
        assert logged["rollout/matched_maskiou_mean"] == pytest.approx(sum(overlaps) / hits)
    else:
        assert logged["eval_rollout/precision"] == pytest.approx(hits / valid)
        assert logged["eval_rollout/recall"] == pytest.approx(hits / truths)
        names = {
            (line["sample_id"], index): item["desc"]
            for line in lines
            for index, item in enumerate(line["ground_truth"])
        }
        assert all(
            names[line["sample_id"], item["truth"]] == item["desc"] and item["iou"] >= 0.5
            for line in lines
            for item in line["objects"]
            if item["fate"] == "matched"
        )


@pytest.mark.invariant("ROLL-070")
def test_a_dump_spells_the_answer_and_what_was_made_of_it(ran: Ran) -> None:
    for line in ran.lines("step_000000.jsonl"):
        assert line["text_chars"] == len(line["text"]) and line["target"]["text_chars"] == len(line["target"]["text"])
        assert all(item["desc"] in line["text"] for item in line["objects"] if "desc" in item)
        assert line["target"]["text"].endswith("]}<|im_end|>\n")
        for index in line["target"]["appended"]:
            assert json.dumps(line["ground_truth"][index]["desc"]) in line["target"]["text"]


@pytest.mark.invariant("ROLL-070")
def test_what_an_evaluation_does_not_score_is_told_as_such(cut_encoder: Encoder, tmp_path: Path) -> None:
    """A region of cats, and a category that nobody looked for."""
    from coordexp.coordjson import render_answer
    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record
    from coordexp.evaluation.detections import build_answer_parser, build_truths
    from coordexp.evaluation.runner import Scoring, score_outputs
    from coordexp.rollout.types import RolloutOutput

    box = {"found": (1, 1, 300, 300), "region": (600, 600, 900, 900), "nowhere": (1, 600, 300, 900)}
    region = {"desc": "cat", "bbox_2d": [55.0, 55.0, 95.0, 95.0]}
    scope = {"ignore": [region], "verified_absent": ["dog"]}
    truth = (CoordObject("cat", "bbox_2d", box["found"]), CoordObject("cat", "bbox_2d", (400, 1, 500, 100)))
    record = Record(f"{tmp_path}/a.jsonl:1", ("a.png",), 96, 96, truth, metadata=scope)
    said = [("cat", "found"), ("cat", "region"), ("dog", "region"), ("dog", "nowhere"), ("emu", "nowhere")]
    text = render_answer([CoordObject(desc, "bbox_2d", box[where]) for desc, where in said], "desc_first")
    ids = (*cut_encoder.tokenizer(text, add_special_tokens=False)["input_ids"], cut_encoder.turn.end)
    output = RolloutOutput(record.source, (1,), ids, "\ud800" + text, "stop", 3)
    scored = score_outputs(
        build_answer_parser(cut_encoder), build_truths([record], cut_encoder), [output], Scoring("constant")
    )
    dump = RolloutDump(tmp_path, cut_encoder.pieces, DumpBounds(1, 1, 1, 10**6, 0.0))
    assert dump.evaluation(3, scored, [record], [output])["rollout/dumps_written_total"] == (1.0, 0.0)
    (line,) = (check("rollout-dump", line) for line in read_json_lines(tmp_path / "rollouts/eval_000003.jsonl"))
    assert [item["fate"] for item in line["objects"]] == ["matched", "ignored", "fp", "fp", "ignored"]
    assert (line["missed"], line["ignore"], line["text"]) == ([1], [region], output.text)
    counts = scored.report.detection
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 2, 1)


@pytest.mark.invariant("ART-061")
def test_a_dump_is_counted_where_it_is_due(ran: Ran) -> None:
    assert ran.outcomes() == [(1, 1, 0, 0), (2, 1, 0, 0), (2, 1, 0, 0)]
    assert not ran.warnings
    assert all(0 < line["time/rollout_dump_s"] < 1 for line in ran.log if "time/rollout_dump_s" in line)


@pytest.mark.invariant("ART-061")
@pytest.mark.parametrize("fault", ["low", "broken"])
def test_no_disk_ends_a_run_or_changes_it(ran: Ran, stage2_kit: Stage2Kit, fault: str) -> None:
    low = fault == "low"
    dump = DUMP | ({"min_free_gib": MORE_THAN_ANY_DISK} if low else {})
    other = run(stage2_kit, fault, dump, in_the_way=not low)
    assert other.outcomes() == [(step, 0, low, not low) for step in (1, 2, 2)]
    during, end = other.warnings
    assert ("min_free_gib is 1e+09" if low else "cannot be written") in during and "training goes on" in during
    assert ("3 skipped" if low else "3 failed") in end and "0 events written" in end
    assert [line["loss"] for line in other.log if "loss" in line] == [
        line["loss"] for line in ran.log if "loss" in line
    ]
    assert not list(other.folder.glob("rollouts/*"))


@pytest.mark.invariant("ART-060")
def test_a_run_without_dumps_tells_nothing_of_them(stage2_kit: Stage2Kit) -> None:
    plain = run(stage2_kit, "undumped", {})
    assert not (plain.folder / "rollouts").exists() and not plain.warnings
    assert not [key for line in plain.log for key in line if key.removeprefix("eval_") in OBSERVED]
