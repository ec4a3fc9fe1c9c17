"""Reductions over micro-batches and ranks, the key table and the payload."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.metrics.accumulator import MetricAccumulator, merge_states
from coordexp.metrics.payload import build_payload, check_payload
from coordexp.metrics.table import MetricError, read_metric_table
from coordexp.spec import ContractViolation, check

LOSS, COUNT, TIME, GAUGE, RATE = (
    "loss/struct_ce",
    "data/samples_total",
    "time/step_s",
    "rollout/mAP",
    "packing/fill_rate",
)
NUMBERS = st.integers(0, 50).map(float)
OBSERVATIONS = st.lists(st.tuples(NUMBERS, st.integers(1, 9).map(float)), min_size=1, max_size=8)


def accumulate(observations) -> MetricAccumulator:
    gathered = MetricAccumulator()
    for value, weight in observations:
        gathered.add_ratio(LOSS, value * weight, weight)
        for key in (COUNT, TIME, GAUGE):
            gathered.add(key, value)
    return gathered


@pytest.mark.invariant("ART-006")
def test_counters_add_up_times_are_the_longest_and_gauges_average():
    assert accumulate([(5.0, 1.0), (2.0, 3.0)]).result() == {LOSS: 2.75, COUNT: 7.0, TIME: 5.0, GAUGE: 3.5}


@pytest.mark.invariant("ART-006")
@given(OBSERVATIONS, st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_no_split_over_micro_batches_and_ranks_changes_a_metric(observations, owners):
    whole = accumulate(observations).result()
    parts = [[o for o, owner in zip(observations, owners, strict=False) if owner == rank] for rank in range(3)]
    merged = merge_states(accumulate(part).state() for part in parts).result()
    assert merged == pytest.approx(whole)
    values, weights = zip(*observations, strict=True)
    assert whole == pytest.approx(
        {
            LOSS: sum(v * w for v, w in observations) / sum(weights),
            COUNT: sum(values),
            TIME: max(values),
            GAUGE: sum(values) / len(values),
        }
    )


@pytest.mark.invariant("ART-006")
def test_a_gauge_seen_by_one_rank_is_not_diluted_by_the_others():
    seen, idle = MetricAccumulator(), MetricAccumulator()
    seen.add(GAUGE, 4.0)
    idle.add(COUNT, 1)
    assert merge_states([seen.state(), idle.state()]).result() == {GAUGE: 4.0, COUNT: 1.0}


@pytest.mark.invariant("ART-006")
def test_a_ratio_over_nothing_is_absent_and_not_zero():
    gathered = MetricAccumulator()
    gathered.add_ratio(LOSS, 0.0, 0.0)
    assert gathered.result() == {}
    gathered.add_ratio(LOSS, 6.0, 3.0)
    assert gathered.result() == {LOSS: 2.0}


@pytest.mark.invariant("ART-006")
@given(st.permutations(range(1, 9)), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_the_latest_ratio_is_that_of_the_largest_denominator_whatever_the_order(steps, owners):
    key = "stage2_ab/b_ratio_realized"
    ranks = [MetricAccumulator() for _ in range(3)]
    for step, owner in zip(steps, owners, strict=True):
        ranks[owner].add_ratio(key, float(step // 3), torch.tensor(float(step)))
    assert merge_states(rank.state() for rank in ranks).result() == {key: 2 / 8}
    with pytest.raises(MetricError, match="give its numerator and denominator to add_ratio"):
        MetricAccumulator().add(key, 1.0)


@pytest.mark.invariant("ART-006")
def test_tensors_are_detached_and_count_like_numbers():
    weight = torch.ones((), requires_grad=True)
    gathered = MetricAccumulator()
    gathered.add_ratio(LOSS, weight * 3, torch.tensor(2))
    gathered.add(TIME, torch.tensor(1.5))
    gathered.add(TIME, 0.5)
    assert gathered.result() == {LOSS: 1.5, TIME: 1.5}


@pytest.mark.invariant("ART-007")
def test_helpers_with_an_underscore_are_summed_and_never_leave():
    gathered = MetricAccumulator()
    gathered.add("eval/_matched", 2)
    gathered.add("eval/_matched", 3)
    gathered.add(COUNT, 1)
    assert gathered.state()["eval/_matched"][0] == 5.0
    assert gathered.result() == {COUNT: 1.0}
    with pytest.raises((MetricError, ContractViolation)):
        build_payload("train", 1, {"eval/_matched": 5.0})


@pytest.mark.invariant("ART-007")
def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(MetricError, match=r"unknown metric key 'loss/strct_ce'; nearest: 'loss/struct_ce'"):
        MetricAccumulator().add("loss/strct_ce", 1.0)


@pytest.mark.invariant("ART-007")
def test_a_ratio_takes_both_sums_and_nothing_else_does():
    with pytest.raises(MetricError, match="give its numerator and denominator to add_ratio"):
        MetricAccumulator().add(LOSS, 1.0)
    with pytest.raises(MetricError, match="reduced by sum, not as a ratio"):
        MetricAccumulator().add_ratio(COUNT, 1.0, 1.0)


@pytest.mark.invariant("ART-007")
def test_every_loss_is_mean_like_and_every_counter_says_so_in_its_name():
    # The requirements give these three their names.
    counted = {
        "rollout/parse_dropped_invalid",
        "rollout/repeat_terminate_triggered_sequences",
        "stage2_ab/channel_b/closure_supervision/N_drop",
    }
    for key, metric in read_metric_table().items():
        counter = key in counted or key.rsplit("_", 1)[-1] in ("total", "count", "sum", "num", "den")
        assert (metric.reduction == "sum") == counter, key
        if key.startswith("loss/"):
            assert metric.reduction == "ratio", key
        if key.startswith("time/"):
            assert metric.reduction == "max" and key.endswith("_s"), key


@pytest.mark.invariant("ART-007")
@pytest.mark.parametrize(
    ("key", "reduction"),
    [
        ("loss/struct_ce", "sum"),
        ("loss/struct_ce", "mean"),
        ("data/samples", "sum"),
        ("data/samples_total", "mean"),
        ("time/step_s", "mean"),
        ("time/step", "max"),
        ("eval/parse_rate", "mean"),
        ("rollout/repeat_terminate_active", "mean"),
        ("rollout/_helper", "mean"),
        ("nogroup", "mean"),
    ],
)
def test_the_table_refuses_a_row_that_breaks_the_naming_contract(key, reduction):
    for kind in ("counter", "rate", "mean", "gauge", "flag", "time"):
        row = {"key": key, "kind": kind, "reduction": reduction, "unit": "1", "when": ["training"]}
        row |= {"meaning": "Something or other.", "reading": "Nothing much."}
        with pytest.raises(ContractViolation):
            check("metric-table", {"description": "A table with one row in it.", "metrics": [row], "upstream": []})


@pytest.mark.invariant("ART-008")
def test_a_payload_carries_version_mode_step_and_metrics():
    payload = build_payload("train", 7, {LOSS: 0.5, COUNT: 3.0})
    assert payload == {"schema_version": 1, "mode": "train", "global_step": 7, "metrics": {LOSS: 0.5, COUNT: 3.0}}
    assert check_payload(payload) == payload


@pytest.mark.invariant("ART-008")
@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "without schema_version"),
        ("1", "must be an integer, got '1'"),
        (1.0, "must be an integer, got 1.0"),
        (True, "must be an integer, got True"),
        (2, "schema_version 2 is not supported; this version reads 1"),
        (0, "schema_version 0 is not supported"),
    ],
)
def test_another_schema_version_is_refused(version, message):
    payload = {"mode": "train", "global_step": 0, "metrics": {}} | (
        {} if version is None else {"schema_version": version}
    )
    with pytest.raises(MetricError, match=message):
        check_payload(payload)


@pytest.mark.invariant("ART-008")
@pytest.mark.parametrize(
    "change",
    [
        {"mode": "test"},
        {"global_step": -1},
        {"global_step": 1.5},
        {"metrics": {"loss/_x": 1.0}},
        {"metrics": {LOSS: "1"}},
        {"rank": 0},
    ],
)
def test_a_payload_outside_the_contract_is_refused(change):
    with pytest.raises(ContractViolation):
        check_payload({"schema_version": 1, "mode": "train", "global_step": 0, "metrics": {}} | change)


@pytest.mark.invariant("ART-008")
def test_a_payload_is_only_built_from_finite_metrics_of_its_mode():
    with pytest.raises(MetricError, match="is nan at step 3: only finite numbers are logged"):
        build_payload("train", 3, {LOSS: float("nan")})
    with pytest.raises(MetricError, match="'rollout/f1' is not for mode 'train'"):
        build_payload("train", 3, {"rollout/f1": 0.5})
