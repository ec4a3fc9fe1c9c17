"""The HF guard on a trained tiny model: only answers that repeat themselves are ended, in any batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.coordjson import render_expression
from coordexp.encode.encoder import build_encoder
from coordexp.encode.processor import load_processor
from coordexp.encode.settings import EncodeSettings
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.server_plugin.guard import build_guard
from coordexp.rollout.types import Decoding, RolloutOutput
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.types import RolloutRequest

LIMITS = RepeatTerminateConfig(
    enabled=True, min_new_tokens=20, max_consecutive_token_repeats=9, ngram_size=3, ngram_repeats=3, max_object_keys=2
)


@pytest.fixture(scope="module")
def bench(stage1_kit: Any) -> tuple[Any, Any, list[RolloutRequest]]:
    """The early model, its processor, and prompts of the miniature's records."""
    from coordexp.data.records import read_records
    from coordexp.rollout.requests import build_requests

    processor = load_processor(EARLY)
    records = read_records(stage1_kit.train)[:8]
    requests = build_requests(records, build_encoder(processor, EncodeSettings()), stage1_kit.train.parent)
    return Qwen3VLForConditionalGeneration.from_pretrained(EARLY).eval(), processor, requests


def answers(bench: Any, batch: int, repeats: RepeatTerminateConfig | None, decoding: Decoding) -> list[RolloutOutput]:
    model, processor, requests = bench
    backend = HfBackend(model, processor, decode_batch_size=batch, logprobs=True, repeats=repeats)
    assert backend.settings.repeat_terminate == (repeats is not None and repeats.enabled)
    return backend.generate(requests, decoding)


def cut(processor: Any, ids: Sequence[int]) -> tuple[int, ...]:
    """A free answer as the guard leaves it."""
    guard = build_guard(LIMITS, processor.tokenizer)
    detector = guard.watch()
    for place, token in enumerate(ids[:-1]):
        if token == guard.stop_id:
            break
        if detector.push(token):
            return (*ids[: place + 1], guard.stop_id)
    return tuple(ids)


DRAWN = Decoding(120, temperature=1.1, seed_base=5)
BY_THE_GRAMMAR = replace(DRAWN, grammar=render_expression("desc_first"))


@pytest.mark.invariant("ROLL-047")
@pytest.mark.invariant("ROLL-052")
@pytest.mark.parametrize("decoding", [Decoding(120), DRAWN, BY_THE_GRAMMAR], ids=["greedy", "drawn", "by the grammar"])
def test_answers_are_ended_one_by_one_and_the_others_go_on(bench: Any, decoding: Decoding) -> None:
    free = answers(bench, 8, None, decoding)
    wanted = [cut(bench[1], output.response_token_ids) for output in free]
    touched = [ids != output.response_token_ids for ids, output in zip(wanted, free, strict=True)]
    assert any(touched) and not all(touched), "the limits end some answers, and not all"
    for batch in (8, 3, 1):
        guarded = answers(bench, batch, LIMITS, decoding)
        assert [output.response_token_ids for output in guarded] == wanted
        assert [output.repeat_terminated for output in guarded] == touched
        for output, plain in zip(guarded, free, strict=True):
            kept = len(output.response_token_ids) - output.repeat_terminated
            assert output.token_logprobs is not None and plain.token_logprobs is not None
            assert output.token_logprobs[:kept] == pytest.approx(plain.token_logprobs[:kept], abs=1e-4)
            assert len(output.token_logprobs) == len(output.response_token_ids)
            assert output.finish_reason == ("stop" if output.repeat_terminated else plain.finish_reason)


@pytest.mark.invariant("ROLL-047")
def test_limits_that_are_not_enabled_are_no_guard(bench: Any) -> None:
    off = RepeatTerminateConfig(min_new_tokens=0, max_object_keys=1)
    assert answers(bench, 8, off, Decoding(60)) == answers(bench, 8, None, Decoding(60))


@pytest.mark.invariant("ROLL-049")
def test_evaluation_ends_what_the_configuration_ends_and_says_so(stage1_kit: Any, stage2_kit: Any) -> None:
    from coordexp.config import load_config
    from coordexp.evaluation.job import build_job, evaluate_checkpoint
    from coordexp.evaluation.runner import GenerationSettings
    from coordexp.evaluation.summary import render_decoding

    low = {"enabled": True, "min_new_tokens": 16, "max_object_keys": 1}
    path = stage2_kit.write("evaluated", rollout_matching={"max_new_tokens": 96, "repeat_terminate": low})
    job = build_job(load_config(path), EARLY, GenerationSettings(Decoding(96), "constant"), jsonl=stage1_kit.train)
    evaluation = evaluate_checkpoint(job)
    assert any(output.repeat_terminated for output in evaluation.outputs) and evaluation.backend.repeat_terminate
    assert render_decoding(evaluation.backend, evaluation.settings.decoding).endswith(" · repetitions ended")
