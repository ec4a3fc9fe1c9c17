"""How tokens are drawn: by the request's own generator, from the warped distribution, whatever else is in the batch."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.requests import build_requests
from coordexp.rollout.sampling import TokenChooser
from coordexp.rollout.seeding import LARGEST_SEED, evaluation_seed_base, request_seed, rollout_seed_base
from coordexp.rollout.types import Decoding, RolloutError, RolloutRequest

NEW_TOKENS = 10
WARM = Decoding(NEW_TOKENS, temperature=1.0, seed_base=5)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory, cut_encoder):
    folder = tmp_path_factory.mktemp("images")
    made = []
    for number, size in enumerate([(64, 64), (96, 64), (64, 128), (64, 64)]):
        Image.new("RGB", size, (40 * number, 90, 200)).save(folder / f"{number}.png")
        found = (CoordObject("red circle", "bbox_2d", (1, 2, 30, 40)),)
        made.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), *size, found))
    return build_requests(made, cut_encoder)


@pytest.fixture(scope="module")
def model(cut_processor):
    return build_tiny_model(cut_processor.tokenizer, SMALLEST, seed=1, tied=False)


def answers(model, processor, requests, decoding: Decoding, batch: int = 4) -> list[tuple[int, ...]]:
    backend = HfBackend(model, processor, decode_batch_size=batch)
    return [output.response_token_ids for output in backend.generate(requests, decoding)]


@pytest.mark.invariant("ROLL-007")
def test_sampled_answers_do_not_depend_on_the_batch(model, cut_processor, requests):
    together = answers(model, cut_processor, requests, WARM)
    alone = [answers(model, cut_processor, [request], WARM)[0] for request in requests]
    assert together == alone == answers(model, cut_processor, requests, WARM, batch=3)
    assert len(set(together)) == 4, "answers that are all alike prove nothing"
    back = answers(model, cut_processor, requests[::-1], WARM)
    assert back[::-1] == together


@pytest.mark.invariant("ROLL-008")
def test_a_request_draws_by_its_index_and_the_base(model, cut_processor, requests):
    first = answers(model, cut_processor, requests, WARM)
    assert answers(model, cut_processor, requests, WARM) == first
    assert answers(model, cut_processor, requests, dataclasses.replace(WARM, seed_base=6)) != first
    moved = [dataclasses.replace(request, index=request.index + 1) for request in requests]
    assert answers(model, cut_processor, moved, WARM) != first
    assert answers(model, cut_processor, moved, dataclasses.replace(WARM, seed_base=4)) == first
    same_prompt = [requests[0], dataclasses.replace(requests[0], index=1)]
    one, other = answers(model, cut_processor, same_prompt, WARM)
    assert one != other


@pytest.mark.invariant("ROLL-008")
@given(st.integers(0, 2**31 - 1), st.integers(0, 10**7), st.integers(0, 10**6))
def test_seeds_follow_their_formula_and_are_never_0(seed: int, step: int, index: int) -> None:
    base = rollout_seed_base(seed, step)
    assert base == (seed + step * 1000003) & 0x7FFFFFFF
    drawn = request_seed(base, index)
    assert 1 <= drawn <= 2**31 - 1
    assert drawn == (base + index - 1) % (2**31 - 1) + 1
    assert request_seed(base, index + 1) == drawn % LARGEST_SEED + 1


@pytest.mark.invariant("ROLL-008")
def test_seeds_at_the_ends_of_their_range() -> None:
    assert [request_seed(base, 0) for base in (0, 1, LARGEST_SEED)] == [LARGEST_SEED, 1, LARGEST_SEED]
    assert request_seed(LARGEST_SEED, 1) == 1
    assert rollout_seed_base(17, 0) == 17 and rollout_seed_base(17, 3) == 3000026
    assert rollout_seed_base(2**31 - 1, 1) == 1000002
    bases = {evaluation_seed_base(seed) for seed in range(50)}
    assert len(bases) == 50 and all(0 <= base < 2**31 for base in bases)
    assert not bases & {rollout_seed_base(seed, step) for seed in range(50) for step in range(2000)}


def choose(scores: list[float], decoding: Decoding, draws: int) -> torch.Tensor:
    """How often each token is chosen of one row's scores, as shares, by requests of different indices."""
    requests = [RolloutRequest(str(index), (0,), index=index) for index in range(draws)]
    chooser = TokenChooser(requests, decoding, torch.device("cpu"))
    rows = torch.tensor([scores]).repeat(draws, 1)
    chosen = chooser(torch.zeros(draws, 1, dtype=torch.long), rows).argmax(-1)
    return torch.bincount(chosen, minlength=len(scores)) / draws


SCORES = [0.0, 1.0, 2.0, -1.0, 1.5]


@pytest.mark.invariant("ROLL-009")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float) -> None:
    shares = choose(SCORES, Decoding(1, temperature=temperature), 8000)
    expected = torch.softmax(torch.tensor(SCORES) / temperature, 0)
    assert float((shares - expected).abs().max()) < 4 * math.sqrt(0.25 / 8000)


@pytest.mark.invariant("ROLL-009")
def test_top_k_and_top_p_leave_the_likeliest_tokens() -> None:
    top_k = choose(SCORES, Decoding(1, temperature=1.0, top_k=2), 4000)
    assert (top_k > 0).tolist() == [False, False, True, False, True]
    # Masses in falling order: .46, .28, .17: two of them reach .6, a third is needed for .8.
    for top_p, kept in ((0.6, [2, 4]), (0.8, [1, 2, 4])):
        found = choose(SCORES, Decoding(1, temperature=1.0, top_p=top_p), 4000)
        assert found.nonzero().flatten().tolist() == kept
    assert (choose(SCORES, Decoding(1, temperature=1.0, top_k=5, top_p=1.0), 4000) > 0).all()


@pytest.mark.invariant("ROLL-009")
def test_greedy_decoding_takes_the_likeliest_whatever_else_is_set() -> None:
    assert choose(SCORES, Decoding(1, top_p=0.1, top_k=1, seed_base=9), 3).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.invariant("ROLL-009")
def test_the_repetition_penalty_counts_prompt_and_answer_and_no_padding() -> None:
    decoding = Decoding(4, repetition_penalty=2.0)
    chooser = TokenChooser([RolloutRequest("a", (2, 3))], decoding, torch.device("cpu"))
    ids = torch.tensor([[1, 1, 2, 3]])  # token 1 is the padding of a batch
    scores = torch.tensor([[0.0, 1.4, 2.0, -0.1, 1.2]])
    first = chooser(ids, scores)
    assert int(first.argmax()) == 1, "2 / 2 < 1.4, and padding is not penalized"
    second = chooser(torch.cat([ids, torch.tensor([[1]])], 1), scores)
    assert int(second.argmax()) == 4, "1.4 / 2 < 1.2"
    negative = TokenChooser([RolloutRequest("a", (0, 2))], decoding, torch.device("cpu"))
    assert int(negative(torch.tensor([[0, 2]]), torch.tensor([[-1.0, -1.5, -0.9]])).argmax()) == 1


@pytest.mark.invariant("ROLL-009")
def test_decoding_settings_of_the_checkpoint_have_no_part(model, cut_processor, requests):
    expected = answers(model, cut_processor, requests, WARM)
    greedy = answers(model, cut_processor, requests, Decoding(NEW_TOKENS))
    own = copy.deepcopy(model)
    own.generation_config.update(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        min_length=9,
    )
    assert answers(own, cut_processor, requests, WARM) == expected
    assert answers(own, cut_processor, requests, Decoding(NEW_TOKENS)) == greedy


@pytest.mark.invariant("ROLL-010")
def test_an_answer_names_the_version_of_the_weights_that_wrote_it(model, cut_processor, requests):
    backend = HfBackend(model, cut_processor, decode_batch_size=4)
    assert {output.policy_version for output in backend.generate(requests, Decoding(1))} == {0}
    backend.sync(7)
    assert backend.policy_version == 7
    assert {output.policy_version for output in backend.generate(requests, Decoding(1))} == {7}


@pytest.mark.invariant("ROLL-006")
def test_logprobs_of_sampled_tokens_are_the_models_own(model, cut_processor, requests):
    hot = Decoding(NEW_TOKENS, temperature=3.0, top_k=50, seed_base=2)
    backend = HfBackend(model, cut_processor, decode_batch_size=4, logprobs=True)
    (output,) = backend.generate(requests[:1], hot)
    forced = {}
    for position in range(1, len(output.response_token_ids)):
        prompt = output.prompt_token_ids + output.response_token_ids[:position]
        request = dataclasses.replace(requests[0], sample_id="forced", prompt_token_ids=prompt)
        (greedy,) = HfBackend(model, cut_processor, decode_batch_size=1, logprobs=True).generate([request], Decoding(1))
        forced[position] = (greedy.response_token_ids[0], greedy.token_logprobs[0])
    differ = [p for p, (token, _) in forced.items() if token != output.response_token_ids[p]]
    assert differ, "sampling at temperature 3 leaves the greedy path somewhere"
    for position, (token, logprob) in forced.items():
        if token == output.response_token_ids[position]:
            assert output.token_logprobs[position] == pytest.approx(logprob, abs=1e-4)
        else:
            assert output.token_logprobs[position] <= logprob + 1e-4


@pytest.mark.invariant("ROLL-009")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": 0}, "top_k is 0; it must be -1 for all tokens, or at least 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"seed_base": -1}, "seed_base is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        Decoding(**({"max_new_tokens": 1} | wrong))
