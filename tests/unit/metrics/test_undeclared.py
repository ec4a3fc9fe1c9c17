"""Keys that nothing declares, wherever they come from, and numbers that are none: training goes on, a test does not."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from coordexp.losses.masks import Provenance
from coordexp.losses.modules.types import Gauge
from coordexp.losses.objective import build_objective
from coordexp.metrics.table import UndeclaredMetricWarning, warn_undeclared
from coordexp.training.console import RunLog
from coordexp.training.log_check import read_log
from coordexp.training.metrics import WindowMetrics, finite_payload
from tests.unit.losses.synthetic import everything_on, run_on
from tests.unit.metrics.logs import recorded


@pytest.fixture(autouse=True)
def forgetful() -> None:
    warn_undeclared.cache_clear()


def write(log: RunLog, line: dict[str, Any]) -> None:
    state = SimpleNamespace(is_world_process_zero=True, global_step=1, max_steps=2)
    log.on_log(None, state, None, logs=line)  # type: ignore[arg-type]


@pytest.mark.invariant("ART-043")
@pytest.mark.parametrize("line", [{"loss": 1.0}, {"eval_loss": 1.0}], ids=["training", "evaluation"])
def test_a_key_of_anybody_s_is_warned_of_once_and_logged(tmp_path: Path, line: dict[str, float]) -> None:
    log = RunLog(tmp_path, Console(quiet=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            write(log, line | {"loss/strct_ce": 0.5, "tokens_seen": 3.0})
    assert [warning.category for warning in caught] == [UndeclaredMetricWarning] * 2
    first, second = (str(warning.message) for warning in caught)
    assert first.startswith(
        "undeclared metric: unknown metric key 'loss/strct_ce'; nearest: 'loss/struct_ce'; keys and"
    )
    assert second.startswith("undeclared metric: unknown metric key 'tokens_seen'")
    assert [written["tokens_seen"] for written in read_log(tmp_path / "logging.jsonl")] == [3.0] * 3


@pytest.mark.invariant("ART-043")
def test_in_a_test_the_same_key_is_a_failure(tmp_path: Path) -> None:
    """By pyproject.toml's filterwarnings: every run of every test is asked."""
    with pytest.raises(UndeclaredMetricWarning, match="undeclared metric: unknown metric key 'tokens_seen'"):
        write(RunLog(tmp_path, Console(quiet=True)), {"loss": 1.0, "tokens_seen": 3.0})


@pytest.mark.invariant("ART-043")
def test_what_runs_really_log_is_warned_of_never(tmp_path: Path) -> None:
    log = RunLog(tmp_path, Console(quiet=True))
    for line in recorded("stage2_two_channel/smoke/ab_mixed"):
        write(log, line)  # a warning would raise
    assert len(read_log(tmp_path / "logging.jsonl")) == len(recorded("stage2_two_channel/smoke/ab_mixed"))


@pytest.mark.invariant("ART-043")
def test_a_gauge_that_no_module_declares_ends_no_run() -> None:
    """Diagnostics are best effort: what is declared beside it is logged, the run goes on."""
    output = run_on(build_objective(everything_on()), Provenance.B)
    output = replace(output, gauges={**output.gauges, "coord_diag/B/made_up": Gauge(torch.tensor(3.0), 1)})
    window = WindowMetrics()
    with pytest.warns(UndeclaredMetricWarning, match="'coord_diag/B/made_up'.*; it is left out, because nothing says"):
        window.add(output)
    reduced = window.reduce(torch.device("cpu"))
    assert "coord_diag/B/made_up" not in reduced and "coord_diag/B/acc_top5" in reduced


@pytest.mark.invariant("ART-043")
def test_a_gauge_that_is_no_number_leaves_the_line_and_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        payloads = [
            finite_payload("train", step, {"coord_diag/B/acc_top5": float("nan"), "loss/struct_ce": 0.5})
            for step in (1, 2)
        ]
    assert payloads[1] == {"schema_version": 1, "mode": "train", "global_step": 2, "metrics": {"loss/struct_ce": 0.5}}
    assert caplog.text.count("metric coord_diag/B/acc_top5 is not finite, so lines leave it out") == 1
