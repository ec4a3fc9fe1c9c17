"""A checkpoint in, vLLM's engine in this very process out, whose weights are replaced where they lie. BRIDGE-012.

It is ms-swift's engine class with the hooks of a rollout server's worker. No process, port or broadcast: the learner's
tensors are copied into the engine's own. Contract ids: BRIDGE-012..BRIDGE-014.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fastapi.encoders import jsonable_encoder

from coordexp.bridges.process_state import preserved_environment, preserved_numbers
from coordexp.bridges.request_seeds import AnswerRules, seeded_engine
from coordexp.bridges.store_communicator import enable_cpu_weight_sync
from coordexp.bridges.versions import check_proven

PROVEN_VERSIONS = {"ms-swift": "4.6.", "vllm": "0.32."}
SLEEP_LEVEL = 1
"""The cache of keys and values is given up, and weights wait in the host's memory: awake again, they are the same."""
CPU_CACHE_GB = 1
"""GiB of the cache of keys and values on a CPU, where the environment names no other number."""


class EngineError(RuntimeError):
    """An engine that is not what the learner needs; the message says what was found."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine runs; all images are at most `max_pixels` large. `environment` is there while it is built."""

    model: Path
    model_type: str
    template: str
    dtype: torch.dtype
    max_pixels: int
    max_model_len: int
    max_num_seqs: int
    enable_prefix_caching: bool
    memory_share: float
    enforce_eager: bool
    environment: Mapping[str, str] = field(default_factory=dict)


class InProcessEngine:
    """An engine of this process, awake. Nothing that it does changes what the learner computes."""

    def __init__(self, engine: Any, owns_group: bool) -> None:
        self._engine, self._owns_group = engine, owns_group
        self.can_sleep = torch.cuda.is_available()
        self.asleep = False

    def infer(self, requests: list[dict[str, Any]], request_config: Mapping[str, Any]) -> list[Any]:
        """One reply a request, in order, in the form of `/infer/`."""
        from swift.infer_engine import RequestConfig

        with preserved_numbers():
            outputs = self._engine.infer(requests, RequestConfig(**request_config), use_tqdm=False)
        return [jsonable_encoder(output) for output in outputs]

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy weights into the engine's own, by their names in a checkpoint, and forget what the old ones computed.

        Raises `EngineError` for weights of the engine that none was given for.
        """
        from vllm.model_executor.model_loader.utils import process_weights_after_loading

        worker = self._engine.engine.model_executor.driver_worker.worker
        model = worker.get_model()
        with preserved_numbers(), torch.no_grad():
            loaded = set(model.load_weights(weights=weights))
            if missing := sorted({name for name, _ in model.named_parameters()} - loaded):
                raise EngineError(f"{len(missing)} weights of the engine were not given, {missing[0]} among them")
            process_weights_after_loading(model, worker.model_config, worker.device)
        self.reset_caches()

    def reset_caches(self) -> None:
        """Forget results of earlier weights: of prompt beginnings, of the vision tower, of processed images."""
        llm = self._engine.engine
        if not llm.reset_prefix_cache():
            raise EngineError("the engine keeps its prefix cache, so requests are still under way")
        llm.reset_encoder_cache()
        llm.reset_mm_cache()

    def sleep(self) -> None:
        """Give the device's memory back, where there is a device that it matters for."""
        if self.can_sleep and not self.asleep:
            with preserved_numbers():
                self._engine.engine.sleep(level=SLEEP_LEVEL)
            self.asleep = True

    def wake(self) -> None:
        """Take the memory again."""
        if self.asleep:
            # What the learner's allocator holds and does not use would be missing.
            gc.collect()
            torch.cuda.empty_cache()
            with preserved_numbers():
                self._engine.engine.wake_up()
            self.asleep = False

    def describe(self) -> dict[str, Any]:
        """What it runs, as a worker of a rollout server says it."""
        told: dict[str, Any] = self._engine.coordexp_describe()
        return told

    def close(self) -> None:
        """End the engine and what it has set up; a second call does nothing."""
        if self._engine is None:
            return
        from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        self._engine.engine.engine_core.shutdown()
        self._engine = None
        destroy_model_parallel()
        if self._owns_group:
            destroy_distributed_environment()
        gc.collect()
        if self.can_sleep:
            torch.cuda.empty_cache()


def build_engine(
    settings: EngineSettings, rules: AnswerRules, describe: Callable[[Any], dict[str, Any]]
) -> InProcessEngine:
    """The engine, with the checkpoint's weights. Raises `ImportError` on releases that this is not proven for."""
    check_proven(PROVEN_VERSIONS, "an engine in the learner's process")
    # In a process of its own the engine would be out of reach of the learner's tensors.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_GB))
    with preserved_environment(settings.environment), preserved_numbers():
        # Before the engine is built: it packs copies of its weights, which a load would leave as they are.
        enable_cpu_weight_sync()
        owns_group = _join_own_group()
        try:
            engine = _build(settings, rules, describe)
        except ValueError as error:
            raise EngineError(f"vLLM builds no engine: {' '.join(str(error).split())}") from error
    from vllm.v1.engine.core_client import InprocClient

    found = engine.engine.engine_core
    if not isinstance(found, InprocClient):
        raise EngineError(f"vLLM has put its engine elsewhere ({type(found).__name__}), out of the learner's reach")
    return InProcessEngine(engine, owns_group)


def _join_own_group() -> bool:
    """A group of this process alone, unless there is one: the engine would make one that knows its device alone, and
    the learner's collectives, which would then take it, also carry tensors of the host.
    """
    if dist.is_initialized():
        return False
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return True


def _build(settings: EngineSettings, rules: AnswerRules, describe: Callable[[Any], dict[str, Any]]) -> Any:
    from swift.infer_engine import GRPOVllmEngine
    from swift.model import get_processor
    from swift.template import get_template

    processor = get_processor(
        model_id_or_path=str(settings.model), torch_dtype=settings.dtype, model_type=settings.model_type
    )
    template = get_template(
        processor, template_type=settings.template, max_pixels=settings.max_pixels, norm_bbox="none"
    )
    return seeded_engine(GRPOVllmEngine, rules, describe)(
        str(settings.model),
        template=template,
        torch_dtype=settings.dtype,
        model_type=settings.model_type,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        gpu_memory_utilization=settings.memory_share,
        enforce_eager=settings.enforce_eager,
        enable_prefix_caching=settings.enable_prefix_caching,
        enable_sleep_mode=torch.cuda.is_available(),
    )
