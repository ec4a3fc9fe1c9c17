"""Which logits processors a worker of vLLM has loaded: asked of the worker, not of its flags. BRIDGE-015."""

from __future__ import annotations

from typing import Any

from coordexp.bridges.versions import check_proven

PROVEN_VERSIONS = {"vllm": "0.32."}


def loaded_processors(worker: Any) -> list[Any]:
    """The processors of a worker's model runner, vLLM's own among them. Raises `ImportError` elsewhere."""
    check_proven(PROVEN_VERSIONS, "asking a worker for its logits processors")
    runner = worker.model_runner
    if hasattr(runner, "input_batch"):
        return list(runner.input_batch.logitsprocs.all)
    return list(runner.sampler.logits_processors)
