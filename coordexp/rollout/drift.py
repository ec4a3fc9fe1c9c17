"""Does a running server answer as the learner's configuration says? Its liveness answer in, errors key by key out.

Contract id: ROLL-017. What does not change answers (memory, eager mode, tensor parallelism) is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.rollout.server_flags import server_dtype
from coordexp.rollout.server_plugin.liveness import LOGPROBS_MODE
from coordexp.rollout.server_plugin.repeats import digest_in_force
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from coordexp.config import Config

_NAMED = "versions."


@dataclass(frozen=True, slots=True)
class Expected:
    """What a server must say. `tokenizer` None leaves the tokenizer to whoever has one; keys are dotted paths of the
    liveness answer, each with the place that decides its value.
    """

    facts: Mapping[str, tuple[Any, str]]
    tokenizer: Mapping[str, Any] | None = None


def expected_of(
    config: Config, model: Path, versions: Mapping[str, str | None], tokenizer: Mapping[str, Any] | None = None
) -> Expected:
    """What `config` demands of a server of the checkpoint in `model`, run with these package versions."""
    section = config.rollout_matching
    assert section is not None and section.vllm is not None, "the caller has asked for rollout_backend vllm"
    vllm = section.vllm
    return Expected(
        {
            "model": (str(model.resolve()), "model.model"),
            "model_type": (config.model.model_type, "model.model_type"),
            "template": (config.template.template, "template.template"),
            "max_pixels": (config.template.max_pixels, "template.max_pixels"),
            "dtype": (server_dtype(config), "model.torch_dtype, training.bf16 and fp16"),
            "max_model_len": (vllm.max_model_len, "rollout_matching.vllm.max_model_len"),
            "enable_prefix_caching": (vllm.enable_prefix_caching, "rollout_matching.vllm.enable_prefix_caching"),
            "enable_lora": (False, "weights are pushed with adapters merged"),
            "logprobs_mode": (LOGPROBS_MODE, "the server plugin"),
            "engine_type": ("sync", "one seed a request"),
            "per_request_seeds": (True, "one seed a request"),
            "repeat_terminate": (digest_in_force(section.repeat_terminate), "rollout_matching.repeat_terminate"),
            **{f"{_NAMED}{name}": (version, "the learner's environment") for name, version in versions.items()},
        },
        tokenizer,
    )


def check_liveness(base_url: str, answer: Mapping[str, Any], expected: Expected) -> None:
    """Raise `RolloutServerError` with every fact of the answer that is not as expected."""
    if faults := list(_faults(answer, expected)):
        raise RolloutServerError(
            f"rollout server {base_url} does not run what the configuration says, so its answers would not be the "
            f"learner's:\n  " + "\n  ".join(faults) + "\nStart it again with this configuration."
        )


def _faults(answer: Mapping[str, Any], expected: Expected) -> Iterator[str]:
    workers = answer["workers"]
    for key, (wanted, place) in expected.facts.items():
        if key.startswith(_NAMED):
            # One that the server does not name is one that it does not have.
            found = [answer["versions"].get(key.removeprefix(_NAMED))]
        else:
            found = [answer[key]] if key in answer else [worker[key] for worker in workers]
        for value in dict.fromkeys(map(_hashable, found)):
            if value != _hashable(wanted):
                yield f"{key}: the server has {value}, the learner needs {wanted} ({place})"
    if expected.tokenizer is not None:
        for name, wanted in expected.tokenizer.items():
            for value in {_hashable(worker["tokenizer"][name]) for worker in workers} - {_hashable(wanted)}:
                yield f"tokenizer.{name}: the server has {value}, the learner {_hashable(wanted)} (model.model)"


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
