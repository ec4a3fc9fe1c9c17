"""What the kind of a key promises, for every key: counters grow with what went through, nothing else does."""

from __future__ import annotations

import pytest
import torch

from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_objective
from coordexp.metrics.accumulator import MetricAccumulator, merge_states
from coordexp.metrics.payload import build_payload
from coordexp.metrics.table import is_internal, read_metric_table
from coordexp.training.metrics import WindowMetrics
from tests.unit.losses.synthetic import everything_on, run_on
from tests.unit.metrics.logs import SMOKE, recorded

SUFFIXES = ("_total", "_count", "_sum", "_num", "_den")


def observed(times: int) -> MetricAccumulator:
    """Every key of the table, seen alike in so many micro-batches."""
    gathered = MetricAccumulator()
    for _ in range(times):
        for key, row in read_metric_table().items():
            if row.reduction in ("ratio", "latest"):
                gathered.add_ratio(key, 3.0, 4.0)
            else:
                gathered.add(key, 3.0)
    return gathered


@pytest.mark.invariant("ART-046")
def test_counters_alone_grow_with_micro_batches_and_with_ranks() -> None:
    once, thrice = observed(1).result(), observed(3).result()
    spread = merge_states(observed(1).state() for _ in range(3)).result()
    assert thrice == spread and once.keys() == read_metric_table().keys()
    for key, row in read_metric_table().items():
        assert thrice[key] == pytest.approx(once[key] * (3 if row.kind == "counter" else 1)), key
        assert row.kind == "counter" or not key.endswith(SUFFIXES), key


@pytest.mark.invariant("ART-046")
def test_a_sparse_gauge_is_the_mean_of_what_was_seen_whatever_else_passed() -> None:
    """Absent is not 0: nine micro-batches and a rank without it change nothing."""
    gathered, idle = MetricAccumulator(), MetricAccumulator()
    for number in range(10):
        gathered.add("data/samples_total", 1)
        if number == 4:
            gathered.add("coord_diag/B/expected_bin_abs_err_p90", 12.0)
            gathered.add_ratio("coord_diag/B/acc_top5", 3.0, 4.0)
        idle.add("data/samples_total", 1)
    reduced = merge_states([gathered.state(), idle.state()]).result()
    assert reduced == {
        "data/samples_total": 20,
        "coord_diag/B/expected_bin_abs_err_p90": 12.0,
        "coord_diag/B/acc_top5": 0.75,
    }


@pytest.mark.invariant("ART-046")
@pytest.mark.parametrize("provenance", list(Provenance))
def test_the_losses_of_a_step_do_not_grow_with_its_tokens(provenance: Provenance) -> None:
    output = run_on(build_objective(everything_on()), provenance)
    lines = []
    for times in (1, 5):
        window = WindowMetrics()
        for _ in range(times):
            window.add(output)
        lines.append(window.reduce(torch.device("cpu")))
    losses = [key for key in lines[0] if key.startswith("loss/")]
    assert losses and lines[1] == pytest.approx(lines[0])
    assert build_payload("train", 1, lines[0])["metrics"] == lines[0]


@pytest.mark.invariant("ART-046")
@pytest.mark.parametrize("name", SMOKE)
def test_a_run_logs_components_by_their_canonical_names_alone(name: str) -> None:
    for line in recorded(name):
        keys = {key.removeprefix("eval_") for key in line}
        assert not any(key.startswith(("loss_", "loss.")) or is_internal(key) for key in keys)
        assert "loss" not in keys or {"loss/struct_ce"} <= keys
        components = {key.split("/")[1] for key in keys if key.startswith("loss/")} - {"A1", "A2", "B"}
        assert components <= {"struct_ce", "desc_ce", "coord_token_ce", "coord_reg", "geo"}
