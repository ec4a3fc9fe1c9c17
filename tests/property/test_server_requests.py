"""How requests are shared out over servers, seeded and written, for any number of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from coordexp.coordjson import render_expression
from coordexp.rollout.seeding import LARGEST_SEED
from coordexp.rollout.types import Decoding, RolloutRequest
from coordexp.rollout.vllm_client import build_body, requests_in_a_round, split_by_capacity
from coordexp.rollout.wire import RolloutServerError
from coordexp.spec import check

MESSAGES = ({"role": "system", "content": "s"}, {"role": "user", "content": "<image>u"})
CAPACITIES = st.lists(st.integers(1, 64), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requests") / "a.png"
    Image.new("RGB", (32, 32), "red").save(path)
    return path


def body_of(image: Path, indices: list[int], decoding: Decoding) -> dict[str, Any]:
    requests = [RolloutRequest(f"s{index}", (1,), (image,), index, ((32, 32),)) for index in indices]
    return dict(check("http/infer-request", build_body(requests, decoding, MESSAGES)))


@pytest.mark.invariant("ROLL-024")
@given(count=st.integers(0, 5000), capacities=CAPACITIES)
@example(count=1, capacities=[1, 1])
@example(count=7, capacities=[1, 2, 4])
@example(count=3, capacities=[64, 1, 1, 1])
def test_shares_are_contiguous_whole_and_by_capacity(count: int, capacities: list[int]) -> None:
    shares = split_by_capacity(count, capacities)
    assert [index for begin, end in shares for index in range(begin, end)] == list(range(count))
    assert len(shares) == len(capacities)
    for (begin, end), capacity in zip(shares, capacities, strict=True):
        exact = Fraction(count * capacity, sum(capacities))
        assert 0 <= begin <= end <= count and abs(end - begin - exact) <= 1


@pytest.mark.invariant("ROLL-024")
@given(each=st.integers(1, 200), capacities=CAPACITIES)
def test_shares_that_come_out_even_are_exact(each: int, capacities: list[int]) -> None:
    shares = split_by_capacity(each * sum(capacities), capacities)
    assert [end - begin for begin, end in shares] == [each * capacity for capacity in capacities]


@pytest.mark.invariant("ROLL-025")
@given(batch=st.integers(1, 300), capacities=CAPACITIES, ranks=st.integers(1, 128))
@example(batch=1, capacities=[1], ranks=2)
@example(batch=2, capacities=[1], ranks=2)
@example(batch=1, capacities=[2], ranks=3)
def test_no_device_decodes_more_at_once_than_it_may_and_every_rank_is_served(
    batch: int, capacities: list[int], ranks: int
) -> None:
    room = batch * sum(capacities)
    if room < ranks:
        with pytest.raises(RolloutServerError, match=rf"decode_batch_size {batch} times {sum(capacities)} ") as refused:
            requests_in_a_round(batch, capacities, ranks)
        least = int(str(refused.value).rpartition("raise it to ")[2].split()[0])
        assert requests_in_a_round(least, capacities, ranks) >= 1
        assert least == 1 or (least - 1) * sum(capacities) < ranks, "the least that is enough"
        return
    share = requests_in_a_round(batch, capacities, ranks)
    assert share >= 1 and share * ranks <= room < (share + 1) * ranks


@pytest.mark.invariant("ROLL-026")
@given(base=st.integers(0, LARGEST_SEED), first=st.integers(0, LARGEST_SEED), count=st.integers(1, 4))
@example(base=0, first=0, count=2)
@example(base=LARGEST_SEED, first=0, count=3)
@example(base=LARGEST_SEED - 1, first=1, count=3)
def test_each_request_carries_its_own_seed_and_never_0(image: Path, base: int, first: int, count: int) -> None:
    indices = list(range(first, first + count))
    body = body_of(image, indices, Decoding(8, temperature=0.5, seed_base=base))
    seeds = [row["coordexp"]["seed"] for row in body["infer_requests"]]
    assert seeds == [(base + index - 1) % (2**31 - 1) + 1 for index in indices]
    assert all(1 <= seed <= 2**31 - 1 for seed in seeds)
    greedy = body_of(image, indices, Decoding(8, seed_base=base))
    assert greedy["infer_requests"] == body["infer_requests"], "by which outputs in another order are told"


KNOBS = st.builds(
    Decoding,
    max_new_tokens=st.integers(1, 4096),
    temperature=st.floats(0, 5),
    top_p=st.floats(0.001, 1),
    top_k=st.one_of(st.just(-1), st.integers(1, 500)),
    repetition_penalty=st.floats(0.1, 3),
    grammar=st.none() | st.sampled_from(["a*", render_expression("desc_first")]),
)


@pytest.mark.invariant("ROLL-026")
@pytest.mark.invariant("ROLL-055")
@given(decoding=KNOBS)
@example(decoding=Decoding(37, temperature=0.9, top_p=0.85, top_k=17, repetition_penalty=1.3))
@example(decoding=Decoding(37, temperature=1, top_p=1, top_k=17, repetition_penalty=2))
def test_every_knob_is_sent_as_it_is(image: Path, decoding: Decoding) -> None:
    body = body_of(image, [0], decoding)
    assert body["request_config"] == {
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k,
        "repetition_penalty": decoding.repetition_penalty,
        "logprobs": True,
        "return_details": True,
        **({} if decoding.grammar is None else {"structured_outputs_regex": decoding.grammar}),
    }
    assert body["infer_requests"][0]["messages"] == list(MESSAGES)
