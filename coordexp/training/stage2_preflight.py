"""What stage 2 would stumble over later, asked before weights are loaded. Contract id: TRAIN-033.

In: a configuration with what `build_foundation` has read; out: nothing, or the error that names every place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import TYPE_CHECKING

from coordexp.config import ConfigError, build_problem

if TYPE_CHECKING:
    from coordexp.config import Config, Problem
    from coordexp.config.rollout_sections import VllmConfig
    from coordexp.data.run_inputs import Role, RunSamples
    from coordexp.encode.encoder import Encoder

_NEARLY_ALL, _AMPLE = 0.99, 3
"""A limit of answers is doubtful above so many times the tokens that so many records need."""


def check_answer_room(config: Config, samples: Mapping[Role, RunSamples], encoder: Encoder, positions: int) -> None:
    """Raise `ConfigError` where the run's longest prompt and the longest answer are more than the model's positions."""
    section = config.rollout_matching
    if section is None:
        return
    lengths = [encoder.prompt_length(record) for part in samples.values() for record in part.records]
    longest, answer = max(lengths), section.max_new_tokens
    if longest + answer > positions:
        text = f"{answer} and the longest prompt of {longest} tokens are more than the {positions} positions of the "
        text += f"model; lower it to {positions - longest} or less" if longest < positions else "model"
        raise ConfigError(str(config.sources.path), [build_problem(config, "rollout_matching.max_new_tokens", text)])


def doubtful_limits(config: Config, samples: Mapping[Role, RunSamples], encoder: Encoder) -> Iterable[Problem]:
    """The key that limits answers, where it does not suit the ground truth: some record's answer could never be whole,
    or answers that do not stop could grow to many times what nearly all records need.
    """
    section = config.rollout_matching
    if section is None:
        return
    lengths = sorted(encoder.answer_length(record) + 1 for part in samples.values() for record in part.records)
    limit, enough = section.max_new_tokens, lengths[ceil(_NEARLY_ALL * len(lengths)) - 1]
    text = ""
    if cut := sum(length > limit for length in lengths):
        text = f"the ground truth of {cut} of {len(lengths)} records is longer; the longest has {lengths[-1]} tokens"
    elif limit > _AMPLE * enough:
        text = f"99% of the records need {enough} tokens at most; answers that do not stop cost every step this many"
    if text:
        yield build_problem(config, "rollout_matching.max_new_tokens", f"{limit}: {text}")


def check_supported(config: Config, ranks: int = 1) -> None:
    """Raise `ConfigError` for what a configuration may say and no trainer of this version does with so many ranks."""
    if problems := list(unsupported(config, ranks)):
        raise ConfigError(str(config.sources.path), problems)


def unsupported(config: Config, ranks: int = 1) -> Iterable[Problem]:
    """What this version cannot train with so many ranks, each at its key."""
    section = config.rollout_matching
    if section is None or section.rollout_backend != "vllm" or section.vllm is None:
        return
    if section.vllm.mode == "colocate":
        yield from _engine_problems(config, section.vllm, ranks)


def _engine_problems(config: Config, vllm: VllmConfig, ranks: int) -> Iterable[Problem]:
    """An engine in the learner's process is one rank's own."""
    elsewhere = "write mode: server (scripts/train_stage2.sh) or rollout_backend: hf"
    if vllm.colocate is not None and vllm.colocate.tensor_parallel_size > 1:
        text = f"{vllm.colocate.tensor_parallel_size}: an engine in the learner's process has one device; write 1, or "
        yield build_problem(config, "rollout_matching.vllm.colocate.tensor_parallel_size", text + elsewhere)
    if ranks > 1:
        text = f"colocate: the run has {ranks} ranks, and an engine in the learner's process serves one; start it with "
        yield build_problem(config, "rollout_matching.vllm.mode", f"{text}one device (gpus=0), or {elsewhere}")
