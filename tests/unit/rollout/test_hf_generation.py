"""Greedy generation on a real, randomly initialised Qwen3-VL: batches, order, stop, log-probabilities, pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.outputs import build_output
from coordexp.rollout.patches import read_patches
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import Decoding, RolloutError, RolloutRequest

if TYPE_CHECKING:
    from pathlib import Path

SIZES = [(64, 64), (96, 64), (128, 64), (64, 96), (128, 96)]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    made = []
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        found = (CoordObject("red circle", "bbox_2d", (1, 2, 30, 40)),)
        made.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), width, height, found))
    return made


@pytest.fixture(scope="module")
def requests(records, cut_encoder):
    return build_requests(records, cut_encoder)


@pytest.fixture(scope="module")
def model(cut_processor, requests):
    """The first seed whose greedy answers differ from image to image, some ending by themselves and some not."""
    for seed in range(50):
        built = build_varied_model(cut_processor.tokenizer, seed)
        let_some_answers_end(built, cut_processor, requests)
        answers = HfBackend(built, cut_processor, decode_batch_size=1).generate(requests, Decoding(NEW_TOKENS))
        ends = {answer.finish_reason for answer in answers}
        if len(ends) == 2 and len({answer.response_token_ids for answer in answers}) >= 4:
            return built
    raise AssertionError("no seed gives answers that differ")


def build_varied_model(tokenizer, seed: int):
    """Weights scaled up, so that what is generated depends on the image."""
    built = build_tiny_model(tokenizer, SMALLEST, seed=seed, tied=False)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.ndim >= 2:
                weight.mul_(3)
    return built


def let_some_answers_end(built, processor, requests) -> None:
    """Give the stop token the head row of a token that some answers hold and others do not."""
    answers = HfBackend(built, processor, decode_batch_size=1).generate(requests, Decoding(NEW_TOKENS))
    used = [set(output.response_token_ids[1:]) for output in answers]
    some = sorted(set.union(*used) - set.intersection(*used))
    if some:
        pair = [some[0], processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)]
        with torch.no_grad():
            built.lm_head.weight[pair] = built.lm_head.weight[pair[::-1]].clone()


@pytest.fixture(scope="module")
def one_by_one(model, cut_processor, requests):
    backend = HfBackend(model, cut_processor, decode_batch_size=1)
    return [backend.generate([request], Decoding(NEW_TOKENS))[0] for request in requests]


def greedy_without_cache(model, encoder, record: Record, steps: int) -> list[int]:
    """The definition of greedy decoding: a whole forward per token, on the sample that training encodes."""
    sample = encoder.encode(record)
    stop = encoder.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ids, answer = sample.input_ids[: sample.prompt_length].tolist(), []
    image = encoder.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with torch.inference_mode():
        while len(answer) < steps and stop not in answer:
            tokens = torch.tensor([ids + answer])
            logits = model(
                input_ids=tokens,
                mm_token_type_ids=(tokens == image).long(),
                pixel_values=sample.pixel_values,
                image_grid_thw=sample.image_grid_thw,
                use_cache=False,
            ).logits
            answer.append(int(logits[0, -1].argmax()))
    return answer


@pytest.mark.invariant("ROLL-002")
@pytest.mark.parametrize("batch_size", [2, 5, 50])
def test_a_batch_answers_as_one_by_one(model, cut_processor, requests, one_by_one, batch_size):
    batched = HfBackend(model, cut_processor, decode_batch_size=batch_size).generate(requests, Decoding(NEW_TOKENS))
    assert batched == one_by_one
    assert len({output.response_token_ids for output in batched}) >= 4, "answers that are all alike prove nothing"


@pytest.mark.invariant("ROLL-002")
def test_answers_are_those_of_greedy_decoding_without_a_cache(model, cut_encoder, records, one_by_one):
    for record, output in zip(records, one_by_one, strict=True):
        assert list(output.response_token_ids) == greedy_without_cache(model, cut_encoder, record, NEW_TOKENS)


@pytest.mark.invariant("ROLL-003")
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_answers_come_back_in_request_order(model, cut_processor, requests, one_by_one, batch_size):
    order = [3, 0, 4, 1, 2]
    backend = HfBackend(model, cut_processor, decode_batch_size=batch_size)
    outputs = backend.generate([requests[i] for i in order], Decoding(NEW_TOKENS))
    assert outputs == [one_by_one[i] for i in order]
    assert [o.prompt_token_ids for o in outputs] == [requests[i].prompt_token_ids for i in order]


@pytest.mark.invariant("ROLL-001")
def test_a_prompt_without_room_for_its_answer_is_refused_before_decoding(model, cut_processor, requests):
    limit = model.config.text_config.max_position_embeddings
    longest = max(requests, key=lambda r: len(r.prompt_token_ids))
    room = limit - len(longest.prompt_token_ids)
    backend = HfBackend(model, cut_processor, decode_batch_size=2)
    with pytest.raises(RolloutError, match=f"lower max_new_tokens to {room} or less") as refusal:
        backend.generate(requests, Decoding(room + 1))
    assert longest.sample_id in str(refusal.value)


@pytest.mark.invariant("ROLL-004")
def test_a_request_shows_what_training_shows(cut_encoder, cut_processor, records, requests):
    image_id = cut_processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for record, request in zip(records, requests, strict=True):
        sample = cut_encoder.encode(record)
        assert request.prompt_token_ids == tuple(sample.input_ids[: sample.prompt_length].tolist())
        patches = read_patches([request], cut_processor.image_processor, image_id)
        assert torch.equal(patches["pixel_values"], sample.pixel_values)
        assert torch.equal(patches["image_grid_thw"], sample.image_grid_thw)


@pytest.mark.invariant("ROLL-004")
def test_an_image_that_does_not_fill_the_prompts_placeholders_is_refused(model, cut_processor, requests):
    swapped = replace(requests[4], sample_id="swapped", prompt_token_ids=requests[0].prompt_token_ids)
    with pytest.raises(
        RolloutError, match=r"sample swapped: the prompt holds 4 image placeholders but its 1 image.s. give 12"
    ):
        HfBackend(model, cut_processor, decode_batch_size=1).generate([swapped], Decoding(2))


@pytest.mark.invariant("ROLL-005")
def test_an_answer_that_ends_itself_stops_there_and_its_text_leaves_the_stop_token_out(one_by_one, cut_tokenizer):
    stop = cut_tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ended = [output for output in one_by_one if output.finish_reason == "stop"]
    assert ended and len(ended) < len(one_by_one), "the fixture needs answers of both kinds"
    for output in one_by_one:
        assert (output.response_token_ids[-1] == stop) == (output.finish_reason == "stop")
        assert stop not in output.response_token_ids[:-1]
        assert END_OF_TURN not in output.text


@pytest.mark.invariant("ROLL-005")
def test_what_follows_the_first_stop_token_is_not_part_of_the_answer(cut_tokenizer):
    stop = cut_tokenizer.convert_tokens_to_ids(END_OF_TURN)
    words = cut_tokenizer('{"objects": []}', add_special_tokens=False)["input_ids"]
    request = RolloutRequest("a", (1, 2))
    output = build_output(
        request, [*words, stop, *words, stop], cut_tokenizer, policy_version=3, logprobs=[-0.5] * (2 * len(words) + 2)
    )
    assert output.text == '{"objects": []}'
    assert output.response_token_ids == (*words, stop)
    assert len(output.token_logprobs) == len(words) + 1
    cut = build_output(request, words, cut_tokenizer, policy_version=3)
    assert (cut.finish_reason, cut.text, cut.token_logprobs) == ("length", '{"objects": []}', None)


@pytest.mark.invariant("ROLL-006")
def test_logprobs_are_those_of_a_teacher_forced_forward(model, cut_processor, cut_encoder, records, requests):
    backend = HfBackend(model, cut_processor, decode_batch_size=5, logprobs=True)
    image = cut_processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for record, output in zip(records, backend.generate(requests, Decoding(NEW_TOKENS)), strict=True):
        sample = cut_encoder.encode(record)
        tokens = torch.tensor([[*output.prompt_token_ids, *output.response_token_ids]])
        with torch.inference_mode():
            logits = model(
                input_ids=tokens,
                mm_token_type_ids=(tokens == image).long(),
                pixel_values=sample.pixel_values,
                image_grid_thw=sample.image_grid_thw,
                use_cache=False,
            ).logits
        start = len(output.prompt_token_ids)
        expected = torch.log_softmax(logits[0, start - 1 : -1], dim=-1).gather(1, tokens[0, start:, None])[:, 0]
        assert torch.allclose(torch.tensor(output.token_logprobs), expected, atol=1e-4)


def test_progress_counts_answers_up_to_all_of_them(model, cut_processor, requests):
    seen: list[tuple[int, int]] = []
    backend = HfBackend(model, cut_processor, decode_batch_size=2)
    backend.generate(requests, Decoding(3), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_model_is_given_back_in_the_mode_it_was_in(model, cut_processor, requests):
    model.train()
    try:
        HfBackend(model, cut_processor, decode_batch_size=5).generate(requests, Decoding(1))
        assert model.training
    finally:
        model.eval()


def test_an_image_of_another_size_than_its_record_is_refused(records, cut_encoder, tmp_path: Path):
    record = records[0]
    wrong = Record(record.source, record.images, 64, 128, record.objects)
    with pytest.raises(ValueError, match="has 64x64 pixels, and its width and height are declared as 64x128"):
        build_requests([wrong], cut_encoder)


def test_no_requests_give_no_answers(model, cut_processor):
    assert HfBackend(model, cut_processor, decode_batch_size=5).generate([], Decoding(1)) == []
