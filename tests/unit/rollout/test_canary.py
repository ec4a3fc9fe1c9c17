"""The canary believes what is within the measured noise, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest

from coordexp.rollout.canary import NOISE, TOKENS, Canary, Noise
from coordexp.rollout.scoring import TokenScores
from coordexp.rollout.types import RolloutOutput, RolloutRequest
from coordexp.rollout.wire import RolloutServerError

REQUEST = RolloutRequest("record:1", (1, 2))
NOISY = Noise(floor=0.01, ceiling=0.5, factor=4.0)
URL = "http://a:1"


@dataclass
class Scorer:
    """Says what it is told of any answer."""

    scores: TokenScores
    asked: tuple[int, ...] = ()

    def score(self, request: RolloutRequest, answer: tuple[int, ...]) -> TokenScores:
        assert request is REQUEST
        self.asked = tuple(answer)
        return self.scores


def answer(*logprobs: float) -> RolloutOutput:
    ids = tuple(range(10, 10 + len(logprobs)))
    return RolloutOutput("record:1", (1, 2), ids, "", "length", 0, token_logprobs=logprobs)


def canary(*logprobs: float, likeliest: tuple[int, ...] | None = None, best: tuple[float, ...] | None = None) -> Canary:
    ids = tuple(range(10, 10 + len(logprobs)))
    return Canary(REQUEST, Scorer(TokenScores(logprobs, likeliest or ids, best or logprobs)), NOISY)  # type: ignore[arg-type]


@pytest.mark.invariant("ROLL-021")
def test_the_token_that_repeat_termination_forces_need_not_be_the_likeliest() -> None:
    ended = dataclasses.replace(answer(-1.0, -9.0), repeat_terminated=True)
    assert canary(-1.0, -9.0, likeliest=(10, 99), best=(-1.0, -0.1)).check(URL, ended) == 0.0
    for likeliest in ((99, 11), (10, 99)):
        spoilt = dataclasses.replace(ended, repeat_terminated=likeliest == (99, 11))
        with pytest.raises(RolloutServerError, match="would write 99"):
            canary(-1.0, -9.0, likeliest=likeliest, best=(-0.1, -0.1)).check(URL, spoilt)


@pytest.mark.invariant("ROLL-021")
def test_it_is_greedy_and_short() -> None:
    decoding = canary(-1.0).decoding
    assert decoding.greedy and decoding.max_new_tokens == TOKENS


@pytest.mark.invariant("ROLL-021")
@pytest.mark.parametrize(
    ("gap", "bound"), [(0.0, 0.01), (0.002, 0.01), (0.005, 0.02), (0.1, 0.4), (0.2, 0.5), (0.49, 0.5)]
)
def test_the_bound_is_measured_at_the_start_and_kept(gap: float, bound: float) -> None:
    checked = canary(-1.0, -2.0)
    assert checked.bound is None
    assert checked.check(URL, answer(-1.0, -2.0 - gap)) == pytest.approx(gap)
    assert checked.bound == pytest.approx(bound)
    checked.check(URL, answer(-1.0, -2.0))
    assert checked.bound == pytest.approx(bound), "a smaller gap later does not make it smaller"
    with pytest.raises(RolloutServerError, match=f"allowed is a difference of {bound:.5f}"):
        checked.check(URL, answer(-1.0, -2.0 - bound - 0.001))


@pytest.mark.invariant("ROLL-021")
def test_gaps_within_the_bound_do_not_widen_it() -> None:
    checked = canary(-1.0)
    checked.check(URL, answer(-1.005))
    assert checked.check(URL, answer(-1.019)) == pytest.approx(0.019)
    assert checked.bound == pytest.approx(0.02)


@pytest.mark.invariant("ROLL-021")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_gap_at_any_token_is_shown(place: int) -> None:
    told = [-1.0, -1.0, -1.0]
    told[place] = -1.6
    with pytest.raises(RolloutServerError) as refused:
        canary(-1.0, -1.0, -1.0).check(URL, answer(*told))
    text = str(refused.value)
    assert text.startswith(f"{URL} does not run the learner's weights") and "(record:1)" in text
    assert f"token {place} is {10 + place} with log-probability -1.60000; the learner gives it -1.00000" in text
    assert "allowed is a difference of 0.50000" in text and "coordexp.rollout.serve" in text


@pytest.mark.invariant("ROLL-021")
@pytest.mark.parametrize("side", ["server", "learner"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_no_number_is_no_agreement(side: str, value: float) -> None:
    ours, theirs = ((-1.0, value) if side == "learner" else (-1.0, -1.0)), (-1.0, value if side == "server" else -1.0)
    checked = canary(*ours)
    with pytest.raises(RolloutServerError, match="token 1 is 11"):
        checked.check(URL, answer(*theirs))
    assert checked.bound is None


@pytest.mark.invariant("ROLL-021")
def test_a_token_that_the_learner_would_not_write_is_refused_unless_it_is_a_tie() -> None:
    tie = canary(-1.0, -0.70, likeliest=(10, 99), best=(-1.0, -0.695))
    tie.bound = 0.01
    assert tie.check(URL, answer(-1.0, -0.70)) == 0.0
    other = canary(-1.0, -0.70, likeliest=(10, 99), best=(-1.0, -0.68))
    other.bound = 0.01
    with pytest.raises(RolloutServerError, match=r"token 1 is 11 .* and would write 99 \(-0.68000\)"):
        other.check(URL, answer(-1.0, -0.70))


@pytest.mark.invariant("ROLL-021")
def test_another_token_is_refused_at_the_start_too() -> None:
    with pytest.raises(RolloutServerError, match="token 0 is 10"):
        canary(-1.5, likeliest=(99,), best=(-0.9,)).check(URL, answer(-1.5))


@pytest.mark.invariant("ROLL-021")
def test_noise_is_ordered_by_precision() -> None:
    assert set(NOISE) == {"float32", "float16", "bfloat16"}
    for noise in NOISE.values():
        assert 0 < noise.floor < noise.ceiling and noise.factor > 1
    assert NOISE["float32"].ceiling < NOISE["float16"].floor < NOISE["bfloat16"].floor
