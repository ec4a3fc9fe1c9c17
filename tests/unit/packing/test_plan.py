"""The static plan: cases, errors, fill on the benchmark's lengths, cost, independence of hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from coordexp.packing.plan import OversizeSample, best_fit_decreasing, build_plan, first_in_first_out, mix_lengths
from coordexp.spec import load_cases

ROOT = Path(__file__).parents[3]
CASES = load_cases(ROOT / "fixtures/packing/plans.json").cases


def lognormal_lengths(count: int, sigma: float, seed: int, cap: int = 8192) -> list[int]:
    """Lengths of mean 1,500 tokens (before clipping at the cap)."""
    draws = np.random.default_rng(seed).lognormal(np.log(1500) - sigma**2 / 2, sigma, count)
    return np.clip(draws, 1, cap).astype(int).tolist()


@pytest.mark.invariant("PACK-001", "PACK-002")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_a_plan_is_what_the_case_says(case):
    if isinstance(case.expect, str):
        with pytest.raises(ValueError, match=case.expect):
            build_plan(case.input["lengths"], case.input["cap"])
    else:
        assert build_plan(case.input["lengths"], case.input["cap"]).packs == tuple(map(tuple, case.expect))


@pytest.mark.invariant("PACK-002")
def test_an_oversize_sample_is_named_with_index_length_and_cap():
    with pytest.raises(OversizeSample, match=r"sample 2 has 8193 tokens and the cap is 8192.*global_max_length"):
        build_plan([10, 20, 8193, 9000], 8192)


@pytest.mark.invariant("PACK-003")
@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fill_is_at_least_995_thousandths_on_two_thousand_lognormal_lengths(sigma, seed):
    lengths = lognormal_lengths(2000, sigma, seed)
    plan = build_plan(lengths, 8192)
    assert plan.fill >= 0.995
    assert plan.fill == pytest.approx(sum(lengths) / (8192 * len(plan.packs)))


@pytest.mark.invariant("PACK-003")
@pytest.mark.parametrize(
    ("lengths", "cap", "winner"),
    [
        ([5, 10, 3, 2, 9, 9, 2], 20, first_in_first_out),
        ([28, 14, 13, 32, 33, 31, 14, 13, 16], 100, best_fit_decreasing),
        (lognormal_lengths(2000, 0.3, 0), 8192, mix_lengths),
    ],
    ids=["dataset order", "best fit", "mixed"],
)
def test_the_plan_is_as_short_as_the_strategy_that_alone_is_shortest(lengths, cap, winner):
    rows = {
        strategy: len(strategy(lengths, cap)) for strategy in (first_in_first_out, best_fit_decreasing, mix_lengths)
    }
    assert all(rows[winner] < count for strategy, count in rows.items() if strategy is not winner)
    assert len(build_plan(lengths, cap).packs) == rows[winner]


@pytest.mark.invariant("PACK-003")
def test_a_hundred_thousand_lengths_take_seconds():
    lengths = lognormal_lengths(100_000, 0.6, 0)
    started = time.process_time()
    plan = build_plan(lengths, 8192)
    assert time.process_time() - started < 5
    assert plan.fill > 0.999


@pytest.mark.invariant("PACK-004")
def test_the_plan_does_not_depend_on_the_hash_seed():
    script = (
        "import random; random.seed(3); from coordexp.packing.plan import build_plan;"
        "print(build_plan([random.randint(1, 900) for _ in range(300)], 1000).packs)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and outputs.pop().startswith("((")


@pytest.mark.invariant("PACK-004")
def test_samples_stand_in_dataset_order_within_a_row_and_rows_by_their_first_sample():
    packs = build_plan(lognormal_lengths(500, 0.6, 5), 8192).packs
    assert all(pack == tuple(sorted(pack)) for pack in packs)
    assert [pack[0] for pack in packs] == sorted(pack[0] for pack in packs)
