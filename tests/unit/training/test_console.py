"""What a run shows: one short line, refreshed in place on a terminal, and every digit in the file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from coordexp.training.console import LOG_NAME, RunLog, render_duration, render_line

LOGS = {
    "loss": 4.123456789,
    "grad_norm": 3.2,
    "learning_rate": 1.5e-4,
    "loss/struct_ce": 0.123456,
    "loss/desc_ce": 0.5,
    "loss/coord_reg": 1.25,
    "loss/coord_reg/soft_ce": 5.0,
    "loss/geo": 0.01,
    "packing/fill_rate": 0.987,
    "data/tokens_total": 1000.0,
}


def state(step: int, total: int = 100, rank0: bool = True) -> Any:
    return SimpleNamespace(global_step=step, max_steps=total, is_world_process_zero=rank0)


@pytest.mark.invariant("TRAIN-018")
def test_a_training_line_has_step_loss_components_rate_fill_and_time_left() -> None:
    line = render_line(LOGS, state(20), elapsed=30.0)
    assert line == (
        "step 20/100  loss 4.1235  struct_ce 0.123  desc_ce 0.500  coord_reg 1.250  geo 0.010  lr 1.50e-04  fill 0.99  "
        "left 2:00"
    )
    few = {"loss": 1.0, "loss/struct_ce": 1.0}
    assert render_line(few, state(0), elapsed=1.0) == "step 0/100  loss 1.0000  struct_ce 1.000  left 0:00"


@pytest.mark.invariant("TRAIN-018")
def test_a_validation_line_says_what_it_is() -> None:
    logs = {f"eval_{key}": value for key, value in LOGS.items()} | {"eval_runtime": 75.4}
    line = render_line(logs, state(40), elapsed=0.0)
    assert line.startswith("validation at step 40  loss 4.1235  struct_ce 0.123") and line.endswith("took 1:15")
    assert render_line({"train_runtime": 3.0}, state(100), elapsed=3.0) == ""


@pytest.mark.invariant("TRAIN-018")
def test_lines_of_stage_2_say_how_the_models_own_answers_are() -> None:
    own = {
        "rollout/match_recall": 0.25,
        "rollout/parse_rate": 0.5,
        "rollout/length_ratio": 1.31,
        "rollout/fp_total": 3.0,
    }
    line = render_line(LOGS | own, state(20), elapsed=30.0)
    assert "  geo 0.010  parse 0.50  length 1.31  recall 0.25  lr 1.50e-04" in line
    own = {"eval_loss": 2.0, "eval_rollout/f1": 0.4, "eval_rollout/mAP": 0.1, "eval_rollout/parse_truncated_rate": 0.02}
    line = render_line(own, state(20), elapsed=30.0)
    assert line == "validation at step 20  loss 2.0000  truncated 0.02  f1 0.40  mAP 0.10  took 0:00"


@pytest.mark.invariant("TRAIN-018")
def test_durations_have_hours_where_there_are_any() -> None:
    assert [render_duration(s) for s in (0, 59.6, 3599, 3600, 36061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]


def run_steps(folder: Path, console: Console, rank0: bool = True) -> RunLog:
    log = RunLog(folder, console)
    log.on_train_begin(None, state(0, 4, rank0), None)
    for step in range(1, 5):
        log.on_step_end(None, state(step, 4, rank0), None)
        if step % 2 == 0:
            log.on_log(None, state(step, 4, rank0), None, logs=dict(LOGS, loss=float(step)))
    log.on_log(None, state(4, 4, rank0), None, logs={"eval_loss": 2.5, "eval_runtime": 1.0})
    log.on_log(None, state(4, 4, rank0), None, logs={"train_runtime": 9.0})
    log.on_train_end(None, state(4, 4, rank0), None)
    return log


@pytest.mark.invariant("TRAIN-018")
def test_without_a_terminal_each_log_is_one_short_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    run_steps(tmp_path, Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/4", "step 4/4", "validation at step 4"]
    assert all(len(line) < 160 and "\x1b" not in line for line in lines)


@pytest.mark.invariant("TRAIN-018")
def test_a_terminals_line_is_refreshed_in_place_at_every_step(tmp_path: Path) -> None:
    stream = io.StringIO()
    run_steps(tmp_path, Console(file=stream, width=200, force_terminal=True))
    text = stream.getvalue()
    for step in (1, 2, 3, 4):
        assert f"step {step}/4" in text
    assert "\x1b[2K" in text, "the line is erased before it is written again"
    assert text.count("\n") <= 4, "no new line for every step"


@pytest.mark.invariant("TRAIN-018")
def test_the_file_has_every_key_with_every_digit_and_one_writer(tmp_path: Path) -> None:
    run_steps(tmp_path, Console(file=io.StringIO()))
    run_steps(tmp_path, Console(file=io.StringIO()), rank0=False)
    written = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text(encoding="utf-8").splitlines()]
    assert [line["global_step"] for line in written] == [2, 4, 4, 4]
    assert written[0] == {"global_step": 2} | dict(LOGS, loss=2.0)
