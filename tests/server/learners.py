"""Learners of the live server: trainers built as a run builds them, and what tests ask of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coordexp.config import load_config
from coordexp.rollout.types import Decoding, RolloutRequest
from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from coordexp.rollout.types import RolloutOutput
    from coordexp.rollout.vllm_server import VllmServerBackend
    from coordexp.training.trainer import CoordTrainer
    from tests.plugins.live_server import Live
    from tests.plugins.stage2 import Stage2Kit


def build(kit: Stage2Kit, live: Live, name: str, **sections: dict[str, Any]) -> CoordTrainer:
    """A trainer whose rollouts come from `live`; keyword arguments override sections of its config."""
    rollouts = {"rollout_backend": "vllm", "max_new_tokens": 160, "decode_batch_size": 8, "vllm": live.section()}
    merged = {"model": {"model": str(EARLY)}, **sections}
    merged["rollout_matching"] = rollouts | sections.get("rollout_matching", {})
    return build_stage2_rollout_aligned(load_config(kit.write(name, **merged)))


def backend_of(trainer: CoordTrainer) -> VllmServerBackend:
    """The backend that the trainer's evaluations and plans use."""
    assert trainer.parts.rollouts is not None
    return trainer.parts.rollouts.backend  # type: ignore[return-value]


def hf_of(trainer: CoordTrainer, batch: int = 8) -> Any:
    """The HF backend over the same model."""
    from coordexp.forward.unwrap import unwrap_model
    from coordexp.rollout.hf import HfBackend

    return HfBackend(
        unwrap_model(trainer.model), trainer.parts.run.encoder.processor, decode_batch_size=batch, logprobs=True
    )


def requests_of(trainer: CoordTrainer, kit: Stage2Kit, count: int) -> list[RolloutRequest]:
    """`count` requests for the miniature's images, one after the other."""
    from coordexp.data.records import read_records
    from coordexp.rollout.requests import build_requests

    records = [*read_records(kit.stage1.train), *read_records(kit.stage1.val)]
    made = build_requests(records, trainer.parts.run.encoder)
    return [replace(made[i % len(made)], index=i) for i in range(count)]


def greedy(tokens: int = 160) -> Decoding:
    return Decoding(tokens)


def ids_of(outputs: Sequence[RolloutOutput]) -> list[tuple[int, ...]]:
    return [output.response_token_ids for output in outputs]


def disturb(tensors: Sequence[torch.Tensor], scale: float, seed: int = 5) -> None:
    """Move the tensors in place, as an update would."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * scale)
