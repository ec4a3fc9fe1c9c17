"""The comparison of stage 2 with stage 1 continued: its arms differ in what they say, its tables say what ran."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.stage2_arms.__main__ import Comparison, UsageError, build_parser, main, read_options
from benchmarks.stage2_arms.children import StepClock
from benchmarks.stage2_arms.plan import Job, Settings, read_config, resolve_objective, write_config
from benchmarks.stage2_arms.report import render, spread
from benchmarks.stage2_arms.runs import PLAN, RESULT, ArmError, near_duplicates, wait_for_steps
from benchmarks.stage2_arms.table import ARMS, CYCLE
from coordexp.config import plain_values

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
TRAINING_OF_ITS_OWN = {
    "run_name", "output_dir", "logging_dir", "effective_batch_size", "learning_rate", "vit_lr", "aligner_lr",
}  # fmt: skip
# Of no effect in a run that neither evaluates nor saves.
IDLE = {"per_device_eval_batch_size", "eval_steps", "save_steps", "save_total_limit", "metric_for_best_model",
        "greater_is_better", "eval_packing", "num_train_epochs"}  # fmt: skip


def settings_in(folder: Path) -> Settings:
    return Settings(ROOT / "fixtures/tiny-qwen3vl", folder / "data", 20.0, 1, None)


def config_of(folder: Path, arm: str) -> Any:
    return read_config(write_config(settings_in(folder), Job(arm, 1, folder / arm), "run", 40, 10))


def modules_of(folder: Path, arm: str) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in resolve_objective(config_of(folder, arm))["objective"]}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_differs_from_stage_1_in_nothing_it_does_not_say(tmp_path: Path, arm: str) -> None:
    found, wanted = (plain_values(config_of(tmp_path, name)) for name in (arm, "stage1"))
    differing = {
        key for key in found["training"] | wanted["training"] if found["training"][key] != wanted["training"][key]
    }
    assert differing <= TRAINING_OF_ITS_OWN | IDLE
    for section in ("global_max_length", "model", "template", "data", "tuner"):
        assert found[section] == wanted[section], section
    assert found["custom"]["train_jsonl"] == wanted["custom"]["train_jsonl"]
    assert found["training"]["learning_rate"] == ARMS[arm].rate == found["training"]["vit_lr"]


@pytest.mark.parametrize("arm", ["mix25", "stage1_steps", "mix25_n2", "mix50"])
def test_weights_of_both_stages_are_the_same(tmp_path: Path, arm: str) -> None:
    ours, stage1 = modules_of(tmp_path, arm), modules_of(tmp_path, "stage1")
    assert ours["bbox_geo"] == stage1["bbox_geo"] and ours["coord_reg"] == stage1["coord_reg"]
    text = ours["token_ce"]["config"]
    assert text["desc_ce_weight"] == text["rollout_fn_desc_weight"] == stage1["token_ce"]["config"]["desc_ce_weight"]
    assert text["self_context_struct_ce_weight"] == 0.0, "else structure would weigh more than in stage 1"
    assert text["rollout_matched_prefix_struct_weight"] == 1.0


def test_an_arm_with_a_written_pipeline_changes_what_it_names(tmp_path: Path) -> None:
    usual = modules_of(tmp_path, "mix25")
    for arm, named in (("mix25_text", {"bbox_geo", "coord_reg"}), ("mix25_coords", {"token_ce"})):
        ours = modules_of(tmp_path, arm)
        for name, entry in ours.items():
            assert entry["channels"] == (["A"] if name in named else ["A", "B"])
            assert entry["config"] == usual[name]["config"]
    text = modules_of(tmp_path, "mix25_prefix0")["token_ce"]["config"]
    assert text == usual["token_ce"]["config"] | {"rollout_matched_prefix_struct_weight": 0.0}


@pytest.mark.parametrize("arm", ARMS)
def test_a_calibration_measures_whole_periods_of_the_schedule(tmp_path: Path, arm: str) -> None:
    config = config_of(tmp_path, arm)
    share = 0.0 if config.stage2_ab is None else config.stage2_ab.schedule.b_ratio
    assert CYCLE * share == round(CYCLE * share) and (share == 0.0 or CYCLE * share >= 2)


def test_start_up_is_no_part_of_a_steps_cost(tmp_path: Path) -> None:
    log = tmp_path / "logging.jsonl"
    clock = StepClock(log)
    clock.look(9.0)
    assert clock.per_step() is None
    written = []
    for step, cpu_s in ((1, 12.0), (2, 14.0), (11, 32.0)):
        written.append(json.dumps({"global_step": step, "loss": 1.0}))
        log.write_text("\n".join(written) + "\n", encoding="utf-8")
        clock.look(cpu_s)
        clock.look(cpu_s + 0.4)
    with log.open("a", encoding="utf-8") as stream:
        stream.write('{"global_step": 12, "eval_loss": 1.0}\n{"global_st')
    clock.look(99.0)
    assert clock.per_step() == pytest.approx((32.0 - 12.0) / 10)


def test_near_duplicates_are_counted_in_an_answers_own_pixels() -> None:
    boxes = [[0, 0, 60, 40], [0, 0, 60, 41], [0, 0, 60, 20], [0, 0, 60, 40]]
    names = ["red square", "red square", "red square", "blue square"]
    line = {
        "width": 128,
        "height": 64,
        "predictions": [{"desc": name, "box": box, "score": 1.0} for name, box in zip(names, boxes, strict=True)],
    }
    assert near_duplicates(line) == 1


def evaluation(f1: float | None) -> dict[str, dict[str, float | None]]:
    numbers = {"parse_rate": 1.0, "f1": f1, "precision": 0.5, "recall": 0.5, "mAP": 0.1, "length_ratio": 1.0}
    return {split: numbers | {"truncated": 2, "near_duplicates": 3} for split in ("crowded", "plain")}


def result(arm: str, seed: int, f1: float | None) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "steps": 40, "records": 360, "train_cpu_s": 20.0, "evaluations": evaluation(f1)}


def test_tables_hold_mean_and_spread_and_what_failed() -> None:
    runs = [result("mix25", seed, f1) for seed, f1 in ((1, 0.2), (2, 0.4), (3, None))]
    page = render([*runs, result("stage1", 1, 0.25), {"arm": "mix10", "seed": 1, "error": "out of memory"}], {})
    assert spread([0.2, 0.4, None]) == (pytest.approx(0.3), pytest.approx(0.1414, abs=1e-4)) and spread([None]) is None
    assert (
        "4 done, 1 failed" in page
        and "| mix25 | 3 | 20 ± 0 | 40 ± 0 | 360 ± 0 | 1.000 ± 0.000 | 0.300 ± 0.141 |" in page
    )
    assert "| mix25 | 3 | 20 | 40 | 360 | 1.000 | – |" in page, "a number that is not there is no 0"
    assert "| stage1 | 1 | 20 | 40 | 360 | 1.000 | 0.250 |" in page
    assert "mix10, seed 1" in page and "out of memory" in page
    assert page.index("| stage1 |") < page.index("| mix25 |")


def test_an_arm_that_waits_for_another_ones_steps_hears_of_its_failure(tmp_path: Path) -> None:
    (tmp_path / "mix25-1").mkdir()
    (tmp_path / "mix25-1" / PLAN).write_text('{"steps": 31}', encoding="utf-8")
    assert wait_for_steps(tmp_path / "mix25-1") == 31
    (tmp_path / "mix25-2").mkdir()
    (tmp_path / "mix25-2" / RESULT).write_text('{"error": "no"}', encoding="utf-8")
    with pytest.raises(ArmError, match="mix25-2 failed"):
        wait_for_steps(tmp_path / "mix25-2")


@pytest.fixture
def data(stage1_kit: Stage1Kit, tmp_path: Path) -> Path:
    """The kit's images as the four splits."""
    for name, source in (("train", "train"), ("val", "val"), ("heldout", "val"), ("heldout_crowded", "val")):
        shutil.copytree(stage1_kit.root / source, tmp_path / "data" / name)
    return tmp_path / "data"


def arguments(checkpoint: Path, data: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(data.parent / "out"), *more]


@pytest.mark.parametrize(
    "more, text",
    [
        (("--arms", "mix24"), "no arm called mix24; there are stage1"),
        (("--arms", "stage1_steps"), "stage1_steps takes its number of steps from mix25; name mix25 too"),
        (("--seeds", "1,x"), "no comma-separated list of whole numbers"),
        (("--jobs", "0"), "--jobs: 0 is less than 1"),
        (("--checkpoint", "nowhere"), "nowhere/config.json: no such file"),
    ],
)
def test_arguments_that_make_no_comparison_are_refused(
    data: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], text: str
) -> None:
    assert main(arguments(ROOT / "fixtures/tiny-qwen3vl", data, *more)) == 2
    assert text in capsys.readouterr().err
    assert not (data.parent / "out").exists()


def test_runs_go_seed_by_seed_and_none_waits_for_one_behind_it(data: Path) -> None:
    given = arguments(ROOT / "fixtures/tiny-qwen3vl", data, "--arms", "stage1_steps,mix25,stage1", "--seeds", "2,1")
    _, pairs = read_options(build_parser().parse_args(given))
    assert pairs == [(arm, seed) for seed in (1, 2) for arm in ("stage1", "mix25", "stage1_steps")]


def test_a_failed_arm_is_reported_and_a_resumed_comparison_keeps_what_is_done(
    stage1_kit: Stage1Kit, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (data / "train" / "records.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("{}\n")
    # Its counts are no longer true, which would be told first.
    (data / "train" / "manifest.json").unlink()
    given = arguments(stage1_kit.checkpoint, data, "--arms", "stage1", "--seeds", "1", "--seconds", "1", "--jobs", "2")
    assert main(given) == 1
    out = data.parent / "out"
    table = json.loads((out / "arms.json").read_text(encoding="utf-8"))
    by_arm = {found["arm"]: found for found in table["results"]}
    assert by_arm["start"]["evaluations"]["plain"]["images"] == 3
    assert "records.jsonl:15" in by_arm["stage1"]["error"], "the child's own message is kept"
    assert "records.jsonl:15" in (out / "arms.md").read_text(encoding="utf-8")
    kept = (out / "start" / RESULT).stat().st_mtime_ns
    assert main([*given, "--resume"]) == 1
    assert (out / "start" / RESULT).stat().st_mtime_ns == kept
    assert main(given) == 2
    assert "--resume to go on with it" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"of other settings \(seconds was 1\.0"):
        Comparison(Settings(stage1_kit.checkpoint.resolve(), data.resolve(), 2.0, 1, None), out, print).open(
            resume=True
        )
