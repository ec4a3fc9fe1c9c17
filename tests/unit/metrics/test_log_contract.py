"""The contract of metrics on recorded logs: what each line must hold, what it may not, and what it does not know."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.metrics.log_contract import LoggedRun, check_log, line_facts, line_kind, own_metrics
from coordexp.metrics.table import read_metric_table, read_upstream_table
from coordexp.spec import ContractFileError, ContractViolation, check
from coordexp.spec.logged import read_situations
from coordexp.spec.situations import Module
from coordexp.training.log_check import describe_run
from tests.unit.metrics.logs import LOGS, ROOT, SMOKE, asked, documents, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS_OF_RUNS = (
    "stage1/smoke/shapes",
    "stage2_two_channel/smoke/ab_mixed",
    "stage2_two_channel/smoke/ab_mixed_hf",
    "stage2_rollout_aligned/smoke/server",
)
MIXED = "stage2_two_channel/smoke/ab_mixed"


def texts(lines: list[dict[str, Any]], run: LoggedRun) -> list[str]:
    return [problem.text for problem in check_log(lines, run)]


@pytest.mark.invariant("ART-042")
@pytest.mark.parametrize("name", SMOKE)
def test_the_recorded_log_of_a_smoke_configuration_keeps_to_the_contract(name: str) -> None:
    lines = recorded(name)
    assert texts(lines, asked(name)) == []
    assert {line_kind(line) for line in lines} >= {"training", "end"}
    evaluates = asked(name).config["training"]["eval_strategy"] != "no"
    assert any(line_kind(line) == "validation" for line in lines) == evaluates


@pytest.mark.invariant("ART-042")
def test_every_recorded_log_is_of_a_configuration() -> None:
    assert sorted("/".join(path.relative_to(LOGS).with_suffix("").parts) for path in LOGS.rglob("*.jsonl")) == SMOKE


@pytest.mark.invariant("ART-041")
@pytest.mark.parametrize("name", KINDS_OF_RUNS)
def test_no_key_that_a_run_logs_can_be_lost_unseen(name: str) -> None:
    """Not one of them is optional: each is demanded by what the run was asked, or by another number of the line."""
    lines = recorded(name)
    for key in sorted(set().union(*lines) - {"global_step", "eval_loss", "train_runtime"}):
        without = [{other: value for other, value in line.items() if other != key} for line in lines]
        missing = [
            text for text in texts(without, asked(name)) if text.startswith(f"{key} is missing: it is logged on")
        ]
        assert len(missing) >= 1, key


@pytest.mark.invariant("ART-041")
def test_a_key_that_nothing_declares_is_named_with_the_nearest_one_and_its_lines() -> None:
    lines = [line | {"loss/strct_ce": 1.0} for line in recorded(MIXED)[:7]]
    (problem,) = check_log(lines, asked(MIXED))
    assert str(problem).startswith("lines 1, 2, 3, 4, 5 and 2 more: unknown metric key 'loss/strct_ce'; nearest: ")
    assert "contracts/metrics/metrics.yaml" in problem.text


@pytest.mark.invariant("ART-041")
@pytest.mark.invariant("ART-007")
def test_a_helper_of_the_reduction_may_not_stand_in_a_log() -> None:
    lines = recorded(MIXED)
    lines[0]["rollout/_similarity_sum"] = 3.0
    assert texts(lines, asked(MIXED)) == ["rollout/_similarity_sum is a helper of the reduction, which no log may hold"]


@pytest.mark.invariant("ART-041")
@pytest.mark.parametrize(
    ("line", "key", "where"),
    [
        (0, "rollout/samples_total", "training lines with a step on rollouts; evaluations of stage 2"),
        (0, "loss/B/struct_ce", "`B` with `token_ce`"),
        (3, "loss/A1/struct_ce", "`A1` with `token_ce`"),
        (0, "loss/geo/ciou", "`stage1` with `bbox_geo.ciou_weight`"),
        (0, "mask_counts/A1/text_frac", "`A1` with `mask_counts`"),
        (0, "eval_runtime", "every evaluation"),
    ],
)
def test_a_key_in_a_situation_of_another_is_out_of_place(line: int, key: str, where: str) -> None:
    lines = recorded(MIXED)
    lines[line][key] = 1.0
    (text,) = texts(lines, asked(MIXED))
    assert text.startswith(f"{key} has no place here: it is logged on ") and where in text


@pytest.mark.invariant("ART-041")
@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("loss/struct_ce", math.nan, "loss/struct_ce is nan: only finite numbers are logged"),
        ("loss/struct_ce", "0.5", "loss/struct_ce is '0.5': only finite numbers are logged"),
        ("loss/struct_ce", True, "loss/struct_ce is True: only finite numbers are logged"),
        ("data/samples_total", 7.5, "data/samples_total is 7.5, which no counter can be"),
        ("data/samples_total", -1.0, "data/samples_total is -1.0, which no counter can be"),
        ("rollout/parse_rate", 1.01, "rollout/parse_rate is 1.01, which no rate can be"),
        ("rollout/repeat_terminate_active", 0.5, "rollout/repeat_terminate_active is 0.5, which no flag can be"),
        ("time/step_s", -0.1, "time/step_s is -0.1, which no time can be"),
        ("eval_rollout/mAP", math.inf, "eval_rollout/mAP is inf: only finite numbers are logged"),
    ],
)
def test_a_number_that_its_kind_cannot_be_is_told(key: str, value: Any, text: str) -> None:
    lines = recorded(MIXED)
    place = next(number for number, line in enumerate(lines) if key in line)
    lines[place][key] = value
    assert texts(lines, asked(MIXED)) == [text]


@pytest.mark.invariant("ART-041")
def test_a_mean_over_nothing_is_not_demanded() -> None:
    """Without a match there is no mean IoU; without a valid object no precision either."""
    lines = recorded(MIXED)
    line = next(line for line in lines if "rollout/matched_total" in line)
    for key in ("rollout/matched_total", "rollout/valid_pred_objects_total"):
        line[key] = 0.0
    assert texts(lines, asked(MIXED)) == []
    del line["rollout/matched_maskiou_mean"], line["rollout/match_precision"]
    assert texts(lines, asked(MIXED)) == []


def two_channels(b_ratio: float = 0.25) -> LoggedRun:
    run = asked(MIXED)
    config = {**run.config, "stage2_ab": {**run.config["stage2_ab"], "schedule": {"b_ratio": b_ratio}}}
    return describe_run(config, {"objective": [], "diagnostics": []})


@pytest.mark.invariant("ART-041")
def test_what_a_line_is_of_follows_from_schedule_steps_and_evaluations() -> None:
    """Steps 3, 7, 11 … are B's. An evaluation pushes the weights that the next step rolls out with."""
    steps = [(2, "loss"), (4, "loss"), (7, "eval_loss"), (8, "loss"), (11, "loss"), (12, "loss"), (12, "eval_loss")]
    lines = [{"global_step": step, key: 1.0} for step, key in steps]
    facts = list(line_facts(lines, two_channels()))
    assert [each.line for each in facts] == ["validation" if key == "eval_loss" else "training" for _, key in steps]
    a, b, truth = {"A1", "A2"}, {"B"}, {"stage1"}
    assert [each.contexts for each in facts] == [a, a | b, truth, a | b, a, b, truth]
    assert [each.pushed for each in facts] == [False, True, True, False, False, True, True]


@pytest.mark.invariant("ART-041")
def test_a_module_runs_where_it_is_enabled_and_in_its_channels() -> None:
    entry: dict[str, Any] = {"name": "token_ce", "enabled": True, "weight": 1.0, "channels": ["B"], "config": {"x": 1}}
    off = {**entry, "name": "bbox_geo", "enabled": False}
    run = describe_run(asked(MIXED).config, {"objective": [entry, off], "diagnostics": []})
    assert run.modules == {"token_ce": Module(frozenset({"stage1", "B"}), {"x": 1})}


def altered(name: str, change: Callable[[dict[str, Any]], object]) -> LoggedRun:
    config = json.loads(json.dumps(asked(name).config))
    change(config)
    return replace(asked(name), config=config)


@pytest.mark.invariant("ART-041")
@pytest.mark.parametrize(
    ("change", "missing", "displaced"),
    [
        (lambda c: c["rollout_matching"].update(rollout_backend="hf"), 0, 10),
        (lambda c: c["rollout_matching"]["vllm"].update(mode="colocate"), 0, 2),
        (lambda c: c["rollout_matching"]["eval_detection"].update(enabled=False), 0, 1),
        (lambda c: c["training"].update(packing=False), 0, 2),
    ],
    ids=["hf", "colocate", "without COCO", "padded"],
)
def test_the_configuration_decides_what_is_demanded(change: Any, missing: int, displaced: int) -> None:
    found = texts(recorded(MIXED), altered(MIXED, change))
    assert sum("is missing" in text for text in found) == missing
    assert sum("has no place here" in text for text in found) == displaced


@pytest.mark.invariant("ART-041")
def test_the_last_line_takes_what_no_training_line_came_for_and_no_more() -> None:
    lines = recorded(MIXED)
    lines[-1] |= {"time/data_s": 0.1, "rollout/samples_total": 8.0}
    assert texts(lines, asked(MIXED)) == []
    lines[-1]["time/eval_s"] = 0.1
    (text,) = texts(lines, asked(MIXED))
    assert text.startswith("time/eval_s has no place here: it is logged on every evaluation")


ALIKE = {
    ("data/boxes_total", "data/objects_total"): "drawn shapes have no polygons",
    ("eval_samples_per_second", "eval_steps_per_second"): "a forward holds one sample in these runs",
    ("rollout/fn_appended_total", "rollout/fn_total"): "no prefix of these runs was cut",
    ("train_samples_per_second", "train_steps_per_second"): "upstream's, to which a plan is a sample",
}
"""Keys that say two things which are the same in the recorded runs, and why."""


@pytest.mark.invariant("ART-040")
def test_no_two_keys_say_the_same() -> None:
    """Over all recorded logs: no key follows another on every line that has either (constants say nothing of it)."""
    series: dict[str, dict[tuple[str, int], float]] = {}
    for name in SMOKE:
        for number, line in enumerate(recorded(name)):
            for key, value in line.items():
                series.setdefault(key, {})[name, number] = value
    telling = {key: found for key, found in series.items() if len(set(found.values())) > 2}
    assert {(one, other) for one, other in combinations(sorted(telling), 2) if telling[one] == telling[other]} == {
        *ALIKE
    }


@pytest.mark.invariant("ART-040")
def test_every_key_has_kind_unit_situation_meaning_and_reading() -> None:
    rows = {**read_metric_table(), **read_upstream_table()}
    assert len(rows) == len(read_metric_table()) + len(read_upstream_table())
    for row in rows.values():
        assert row.when and row.kind and row.unit and row.meaning.endswith(".") and row.reading.endswith(".")
    assert {name for name, each in read_situations().items() if each not in used_situations()} == set()


def used_situations() -> list[Any]:
    rows = {**read_metric_table(), **read_upstream_table()}.values()
    return [situation.over(None) for row in rows for situation in row.when]


@pytest.mark.invariant("ART-040")
def test_every_declared_key_is_there_in_some_recorded_log_or_needs_a_weight_that_none_has() -> None:
    """So that no row outlives what logged it."""
    seen = {key for name in SMOKE for line in recorded(name) for key in own_metrics(line)}
    rest = {key for key in read_metric_table() if key not in seen}
    switched_off = ("entropy", "text_gate", "expected_l1", "expected_huber", "coord_ce", "coord_token_ce")
    assert {key for key in rest if not key.endswith(switched_off) and not key.startswith("mask_counts/")} == set()


@pytest.mark.invariant("ART-040")
@pytest.mark.parametrize(
    "change",
    [
        {"kind": "share"},
        {"kind": "rate"},
        {"reading": "Rises"},
        {"reading": None},
        {"when": []},
        {"when": None},
        {"over": "data/objects_total *"},
    ],
)
def test_a_row_without_its_parts_is_refused(change: dict[str, Any]) -> None:
    row = {"key": "data/x_total", "kind": "counter", "reduction": "sum", "unit": "1", "when": ["training"]}
    row |= {"meaning": "Something or other.", "reading": "Nothing much."}
    table = {"description": "A table with one row in it.", "metrics": [row], "upstream": []}
    assert check("metric-table", table) == table
    row |= change
    table["metrics"] = [{key: value for key, value in row.items() if value is not None}]
    with pytest.raises(ContractViolation):
        check("metric-table", table)


@pytest.mark.invariant("ART-040")
def test_a_situation_that_is_nowhere_described_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordexp.spec import logged

    monkeypatch.setattr(logged, "read_situations", dict)
    with pytest.raises(ContractFileError, match=r"no situation of situations.yaml is called answers, coco_answers"):
        logged.read_metric_rows()


def write_run(folder: Path, name: str, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    config, pipeline = documents(name)
    manifest = {"config": {"resolved": config}, "pipeline": pipeline, "source": {"contracts_sha256": "0" * 64}}
    (folder / "run_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "logging.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.mark.invariant("ART-045")
def test_the_command_tells_a_user_of_their_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from coordexp.entrypoints.check_log import main

    good = write_run(tmp_path / "good", MIXED, recorded(MIXED))
    lines = recorded(MIXED)
    del lines[0]["loss/A2/geo"], lines[1]["loss/A2/geo"]
    bad = write_run(tmp_path / "läuf [1]", MIXED, lines)
    assert main([str(good)]) == 0
    assert capsys.readouterr() == (f"{good}: {len(lines)} lines, 0 problems\n", "")
    assert main([str(good), str(bad)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == f"{bad}: {len(lines)} lines, 1 problems"
    first, second = err.splitlines()
    assert first.startswith(f"{bad}: lines 1, 2: loss/A2/geo is missing: it is logged on `A2` with `bbox_geo.smooth")
    assert second == f"{bad}: the run was made under other contracts than those of this checkout"


@pytest.mark.invariant("ART-045")
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "run_manifest.json",
            None,
            "no run_manifest.json here; coordexp.entrypoints.check_log is given a run's folder",
        ),
        ("logging.jsonl", None, "no logging.jsonl here"),
        ("logging.jsonl", "", "no lines; the run ended before its first"),
        ("logging.jsonl", '{"global_step": 1}\n{"global_st', "logging.jsonl:2: no JSON"),
        ("logging.jsonl", '{"loss": 1.0}\n', "logging.jsonl:1: no log line: it has no whole number under global_step"),
        ("run_manifest.json", "{}", "no manifest of a training run"),
        ("run_manifest.json", '{"config": []}', "no manifest of a training run"),
        ("run_manifest.json", "{", "no manifest of a training run"),
    ],
)
def test_a_folder_that_is_no_run_s_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, says: str
) -> None:
    from coordexp.entrypoints.check_log import main

    folder = write_run(tmp_path / "run", MIXED, recorded(MIXED))
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="utf-8")
    assert main([str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"check_log: {folder}") and says in err and err.count("\n") == 1


@pytest.mark.invariant("ART-047")
def test_the_runbook_and_the_page_of_keys_name_the_map_of_an_evaluation() -> None:
    """REG-8.6: COCO's mAP is rollout/mAP where eval_detection is enabled; no other COCO number is logged."""
    row = read_metric_table()["rollout/mAP"]
    assert row.modes == ("eval",)
    assert [situation.config["rollout_matching.eval_detection.enabled"] for situation in row.when] == [(True,)]
    for page in ("METRICS_LOSSES.md", "STAGE2_RUNBOOK.md"):
        text = (ROOT / "docs/training" / page).read_text(encoding="utf-8")
        assert "`rollout/mAP`" in text and "eval_detection" in text
