"""What a rollout server says of itself: the liveness answer, and the envelope of each `/infer/` output. ROLL-014.

Facts come from where they act: the engine's from its worker, the rest from the app. `contracts/http/` has the forms.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from transformers import AutoTokenizer

import coordexp
from coordexp.bridges.versions import installed_version
from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.rollout.server_plugin.guard import build_guard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.config.rollout_sections import RepeatTerminateConfig
    from coordexp.rollout.server_plugin.repeats import RepeatGuard

SCHEMA_VERSION = 1
LOGPROBS_MODE = "raw_logprobs"
"""Log-probabilities of the model's own distribution, as the learner scores tokens."""
PACKAGES = ("torch", "transformers", "ms-swift", "vllm")


@dataclass
class Served:
    """One life of a server: `server_id` is new with each start, `weight_loads` counts the pushes it has finished.

    `limits` are those by which its engine ends answers that repeat themselves; None where it ends none.
    """

    limits: RepeatTerminateConfig | None = None
    server_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    weight_loads: int = 0
    guard: RepeatGuard | None = None

    def count_load(self) -> None:
        """A push has been loaded."""
        self.weight_loads += 1

    def envelope(self, model: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
        """What an answer gains under `coordexp`; `request` is what its request held there, `model` the checkpoint.

        Raises `RepeatGuardError` for an answer that goes on where the engine ends answers.
        """
        return {
            "server_id": self.server_id,
            "weight_loads": self.weight_loads,
            "seed": request.get("seed"),
            "repeat_terminate_triggered": int(self._ended(model, answer)),
        }

    def _ended(self, model: str, answer: Mapping[str, Any]) -> bool:
        """By the ids that are returned, for the engine's processor lives in another process."""
        if self.limits is None:
            return False
        if self.guard is None:
            self.guard = build_guard(self.limits, AutoTokenizer.from_pretrained(model, local_files_only=True))
        return self.guard.has_ended(answer["response"]["choices"][0]["token_ids"])


def package_versions() -> dict[str, str | None]:
    """Releases that decide how answers are made; the CPU build of vLLM stands for vLLM. None for an absent one."""
    return {name: installed_version(name) for name in PACKAGES}


def describe_app(deploy: Any, served: Served) -> dict[str, Any]:
    """The app's part of the liveness answer, from ms-swift's deployment."""
    args = deploy.args
    return {
        "schema_version": SCHEMA_VERSION,
        "server_id": served.server_id,
        "weight_loads": served.weight_loads,
        "command": psutil.Process().cmdline(),
        "coordexp": coordexp.__version__,
        "versions": package_versions(),
        "engine_type": "async" if deploy.use_async_engine else "sync",
        "tensor_parallel_size": args.vllm_tensor_parallel_size,
        "data_parallel_size": args.vllm_data_parallel_size,
        "per_request_seeds": True,
    }


def describe_engine(engine: Any) -> dict[str, Any]:
    """A worker's part, from ms-swift's engine and the vLLM engine in it."""
    config = engine.engine.vllm_config
    model = config.model_config
    return {
        "model": str(Path(model.model).resolve()),
        "model_type": engine.model_type,
        "template": engine.template.template_meta.template_type,
        "max_pixels": engine.template.max_pixels,
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_model_len": model.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "enable_prefix_caching": bool(config.cache_config.enable_prefix_caching),
        "enable_lora": config.lora_config is not None,
        "logprobs_mode": str(model.logprobs_mode),
        "tokenizer": fingerprint_tokenizer(engine.tokenizer),
        "repeat_terminate": _active_guard(engine.engine),
    }


def _active_guard(engine: Any) -> str | None:
    """What all processes of the engine have loaded, as their model runners say; None where they differ."""
    from coordexp.rollout.server_plugin.processors import digest_in

    found = set(engine.collective_rpc(digest_in))
    return found.pop() if len(found) == 1 else None
