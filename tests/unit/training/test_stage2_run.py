"""Stage 2 with its own answers, in one process: what a run logs, how it decodes, and what its evaluation says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.artifacts.dump_files import OBSERVED as DUMPED
from coordexp.artifacts.files import read_json_lines
from coordexp.config import ConfigError, load_config
from coordexp.data.errors import RecordError
from coordexp.data.records import read_records
from coordexp.metrics.payload import build_payload
from coordexp.metrics.table import read_metric_table
from coordexp.rollout.vllm_server import OBSERVED
from coordexp.spec import check
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from tests.plugins.stage2 import Stage2Kit

SETTINGS: dict[str, Any] = {
    "model": {"model": str(EARLY)},
    "training": {
        "effective_batch_size": 6,
        "max_steps": 3,
        "per_device_eval_batch_size": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "metric_for_best_model": "rollout/f1",
        "greater_is_better": True,
        "learning_rate": 1e-4,
        "vit_lr": 1e-4,
        "aligner_lr": 1e-4,
    },
}
ROLLOUTS: dict[str, Any] = {
    "decode_batch_size": 4,
    "max_new_tokens": 160,
    "monitor_dump": {"enabled": True, "every_steps": 2, "max_events": 1, "max_samples": 2, "max_text_chars": 50},
}


@dataclass(frozen=True)
class Ran:
    """A finished run: its config, its folder, its log, and how many prompts each call of generate took."""

    config: Path
    folder: Path
    log: list[dict[str, float]]
    batches: list[int]

    def steps(self) -> list[dict[str, float]]:
        return [line for line in self.log if "loss" in line]

    def evaluations(self) -> list[dict[str, float]]:
        return [line for line in self.log if "eval_loss" in line]


@pytest.fixture(scope="module")
def ran(stage2_kit: Stage2Kit) -> Ran:
    from transformers import Qwen3VLForConditionalGeneration

    from coordexp.training.stage2_rollout_aligned import run_stage2_rollout_aligned

    batches: list[int] = []
    generate = Qwen3VLForConditionalGeneration.generate

    def counted(self: Any, *arguments: Any, **inputs: Any) -> Any:
        batches.append(int(inputs["input_ids"].shape[0]))
        return generate(self, *arguments, **inputs)

    path = stage2_kit.write("own_answers", rollout_matching=ROLLOUTS, **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3VLForConditionalGeneration, "generate", counted)
        run_stage2_rollout_aligned(load_config(path))
    folder = path.parent / "run"
    lines = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    return Ran(path, folder, [json.loads(line) for line in lines], batches)


@pytest.mark.invariant("TRAIN-031")
def test_decode_batch_size_alone_bounds_what_is_decoded_together(ran: Ran) -> None:
    """Six records a step and two rows a validation forward: still in fours, in training and in evaluation (CFG-5.5)."""
    assert ran.batches == [*(4, 2), *(4, 2), 3, 2, 3], (
        "two steps, three images evaluated, the epoch's last two records, and again"
    )


@pytest.mark.invariant("TRAIN-031")
def test_every_key_of_a_run_is_declared_and_stands_on_the_steps_that_did_the_work(ran: Ran) -> None:
    table = read_metric_table()
    names = ("rollout/", "time/rollout_")
    wanted = {key for key, row in table.items() if key.startswith(names) and "train" in row.modes}
    wanted -= set(OBSERVED)
    own = {"loss", "grad_norm", "learning_rate", "epoch", "global_step"}
    assert len(ran.steps()) == 3
    assert set(DUMPED) <= wanted
    assert [line["rollout/dumps_written_total"] for line in ran.steps()] == [1, 0, 0], "one event was allowed"
    for line in ran.steps():
        assert {key for key in line if key.startswith(names)} == wanted
        metrics = {key: value for key, value in line.items() if key not in own and key in table}
        assert build_payload("train", int(line["global_step"]), metrics)["metrics"] == metrics
        assert line["rollout/samples_total"] == line["data/samples_total"]
        assert line["rollout/gt_objects_total"] == line["rollout/matched_total"] + line["rollout/fn_total"]
        assert line["rollout/valid_pred_objects_total"] == line["rollout/matched_total"] + line["rollout/fp_total"]
        assert line["rollout/parse_dropped_invalid"] == sum(v for k, v in line.items() if "parse_dropped/" in k)
        ratio = line["rollout/gen_new_tokens_mean"] / line["rollout/gt_tokens_mean"]
        assert line["rollout/length_ratio"] == pytest.approx(ratio)
    assert [line["rollout/samples_total"] for line in ran.steps()] == [6, 6, 2], "14 records are drawn once"
    assert [line["rollout/seed_base"] for line in ran.steps()] == [17 + step * 1000003 for step in range(3)]


@pytest.mark.invariant("TRAIN-032")
def test_an_evaluation_says_what_evaluate_says_of_its_checkpoint(ran: Ran) -> None:
    from coordexp.evaluation.job import build_job, evaluate_checkpoint
    from coordexp.evaluation.runner import GenerationSettings
    from coordexp.rollout.types import Decoding

    line, _ = ran.evaluations()
    settings = GenerationSettings(Decoding(ROLLOUTS["max_new_tokens"]), "constant")
    job = build_job(load_config(ran.config), ran.folder / "checkpoint-2", settings)
    report = evaluate_checkpoint(job).report
    found = report.detection
    assert found.true_positives > 0 and found.false_positives + found.false_negatives > 0, "something to tell apart"
    wanted = {
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "mAP": report.coco.summary["mAP"],
        "parse_rate": report.parse_rate,
        "parse_truncated_rate": report.parses.truncated / report.images,
        "gt_objects_total": report.ground_truth_objects,
        "valid_pred_objects_total": report.predicted_objects,
    }
    assert {key: line[f"eval_rollout/{key}"] for key in wanted} == pytest.approx(wanted)
    keys = {key for key, row in read_metric_table().items() if key.startswith("rollout/") and "eval" in row.modes}
    assert {key.removeprefix("eval_") for key in line if key.startswith("eval_rollout/")} == keys - set(OBSERVED)
    assert line["eval_time/rollout_generate_s"] > 0 and "eval_loss/geo" in line


@pytest.mark.invariant("TRAIN-032")
def test_checkpoints_can_be_ranked_by_what_the_model_answers(ran: Ran, stage2_kit: Stage2Kit) -> None:
    from coordexp.training.stage2_rollout_aligned import run_stage2_rollout_aligned

    training = SETTINGS["training"] | {"max_steps": 2, "eval_steps": 1, "save_strategy": "best"}
    path = stage2_kit.write("ranked", model=SETTINGS["model"], training=training, rollout_matching=ROLLOUTS)
    run_stage2_rollout_aligned(load_config(path))
    log = [json.loads(line) for line in (path.parent / "run/logging.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [line["eval_rollout/f1"] for line in log if "eval_loss" in line]
    best = [step for step in (1, 2) if scores[step - 1] > max([-1.0, *scores[: step - 1]])]
    assert [
        int(folder.name.rpartition("-")[2]) for folder in sorted((path.parent / "run").glob("checkpoint-*"))
    ] == best
    assert ran.folder != path.parent


def dumped(ran: Ran, name: str) -> list[dict[str, Any]]:
    """The lines of one of its dumps, each as its contract has it."""
    return [check("rollout-dump", line) for line in read_json_lines(ran.folder / "rollouts" / name)]


@pytest.mark.invariant("TRAIN-034")
def test_rollouts_are_written_out_within_their_bounds(ran: Ran) -> None:
    names = sorted(path.name for path in (ran.folder / "rollouts").iterdir())
    assert names == ["eval_000002.jsonl", "step_000000.jsonl"], "one event of each kind"
    for mode, name in (("train", "step_000000.jsonl"), ("eval", "eval_000002.jsonl")):
        lines = dumped(ran, name)
        assert len(lines) == 2
        for line in lines:
            assert line["mode"] == mode and f"_{line['step']:06}." in name
            assert line["policy_version"] == line["step"]
            assert len(line["text"]) == 50 < line["text_chars"], "cut"
            assert (line["target"] is None) == (mode == "eval")
            if line["target"] is not None:
                assert len(line["target"]["text"]) == 50 < line["target"]["text_chars"]
                assert line["target"]["tokens"] > 10


@pytest.mark.invariant("TRAIN-032")
def test_a_failing_coco_evaluation_is_a_warning_and_0(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from coordexp.training import rollout_evaluation

    def broken(*_: Any) -> Any:
        raise RuntimeError("no category")

    monkeypatch.setattr(rollout_evaluation, "evaluate_fast", broken)
    with caplog.at_level("WARNING"):
        assert rollout_evaluation.guarded_coco([], {}).summary["mAP"] == 0.0
    assert "COCO's evaluation failed, so rollout/mAP is 0.0: no category" in caplog.text


@pytest.mark.invariant("TRAIN-031")
def test_a_run_with_the_same_seed_gives_the_same_numbers(ran: Ran, stage2_kit: Stage2Kit) -> None:
    """Sampling included: at temperature 1 the answers are drawn, and drawn alike in other batches."""
    from coordexp.training.stage2_rollout_aligned import run_stage2_rollout_aligned

    lines = []
    for name, batch in (("sampled_in_fours", 4), ("sampled_in_threes", 3)):
        sampled = ROLLOUTS | {"decoding": {"temperature": 1.0, "top_p": 0.95}, "decode_batch_size": batch}
        training = SETTINGS["training"] | {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no"}
        training |= {"metric_for_best_model": None, "greater_is_better": None}
        path = stage2_kit.write(name, model=SETTINGS["model"], training=training, rollout_matching=sampled)
        run_stage2_rollout_aligned(load_config(path))
        text = (path.parent / "run/logging.jsonl").read_text(encoding="utf-8")
        lines.append([json.loads(line) for line in text.splitlines()])
    for one, other in zip(*lines, strict=True):
        for key, value in one.items():
            if "time/" not in key and not key.startswith("train_"):
                assert math.isclose(other[key], value, rel_tol=1e-4, abs_tol=1e-6), key
    greedy = [line["rollout/gen_new_tokens_mean"] for line in ran.steps()]
    drawn = [line["rollout/gen_new_tokens_mean"] for line in lines[0] if "loss" in line]
    assert drawn[0] != greedy[0], "sampled: nothing else is different in the first step"


@pytest.mark.invariant("BRIDGE-007")
def test_a_model_that_generates_under_deepspeed_sees_the_image(
    stage2_kit: Stage2Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/ddp/test_stage2_ranks.py asks the same of ZeRO-2 itself."""
    from swift.model.models import qwen

    from coordexp.rollout.requests import build_requests
    from coordexp.rollout.types import Decoding
    from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned

    trainer = build_stage2_rollout_aligned(load_config(stage2_kit.write("sees")))
    records = read_records(stage2_kit.stage1.val)
    requests = build_requests(records, trainer.parts.run.encoder, stage2_kit.stage1.val.parent)
    backend = trainer.parts.rollouts.backend
    plain = backend.generate(requests, Decoding(24))
    monkeypatch.setattr(qwen, "is_deepspeed_enabled", lambda: True)
    assert backend.generate(requests, Decoding(24)) == plain


@pytest.mark.invariant("TRAIN-033")
def test_what_no_trainer_does_yet_is_refused_at_its_key(stage2_kit: Stage2Kit) -> None:
    from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned

    vllm = {"mode": "colocate", "max_model_len": 900, "colocate": {"tensor_parallel_size": 2}}
    path = stage2_kit.write("shared_engine", rollout_matching={"rollout_backend": "vllm", "vllm": vllm})
    with pytest.raises(ConfigError, match=r"colocate\.tensor_parallel_size: 2: an engine in the learner's process has"):
        build_stage2_rollout_aligned(load_config(path))


@pytest.mark.invariant("TRAIN-033")
def test_an_answer_that_the_model_has_no_positions_for_is_refused_before_it_is_loaded(stage2_kit: Stage2Kit) -> None:
    from coordexp.training.build import build_foundation

    positions = json.loads((stage2_kit.stage1.checkpoint / "config.json").read_text(encoding="utf-8"))
    most = positions["text_config"]["max_position_embeddings"]
    encoder = build_foundation(load_config(stage2_kit.write("fine"))).encoder
    records = [*read_records(stage2_kit.stage1.train), *read_records(stage2_kit.stage1.val)]
    longest = max(len(encoder.prompt(record).ids) for record in records)
    for name, tokens, fits in (("exact", most - longest, True), ("over", most - longest + 1, False)):
        told = {"max_new_tokens": tokens}
        config = load_config(stage2_kit.write(name, row=most, rollout_matching=told))
        if fits:
            build_foundation(config)
        else:
            with pytest.raises(ConfigError, match=rf"max_new_tokens: {tokens} .* lower it to {tokens - 1} or less"):
                build_foundation(config)


@pytest.mark.invariant("TRAIN-033")
def test_a_polygon_is_refused_before_the_model_is_loaded(stage2_kit: Stage2Kit) -> None:
    from coordexp.training.build import build_foundation

    lines = [json.loads(line) for line in stage2_kit.stage1.train.read_text(encoding="utf-8").splitlines()]
    lines[4]["objects"][0].pop("bbox_2d")
    lines[4]["objects"][0]["poly"] = [f"<|coord_{value}|>" for value in (1, 2, 30, 4, 15, 60)]
    jsonl = stage2_kit.stage1.train.with_name("polygons.jsonl")
    jsonl.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    path = stage2_kit.write("polygons", custom={"train_jsonl": str(jsonl)})
    with pytest.raises(RecordError, match=r"polygons\.jsonl:5: objects\[0\]\.poly: stage 2 trains on boxes alone"):
        build_foundation(load_config(path))
