"""A run in, what an engine of vLLM is given and asked out: the weights that are trained, and the canary. TRAIN-051.

The same for an engine behind a server and one in the learner's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.forward.merged_weights import UnservableWeights, iter_merged_weights, merged_names
from coordexp.rollout.canary import NOISE, Noise
from coordexp.rollout.requests import build_requests
from coordexp.rollout.server_flags import server_dtype
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from coordexp.config import Config
    from coordexp.rollout.types import RolloutRequest
    from coordexp.training.build import Run
    from coordexp.training.policy_motion import PolicyMotion


@dataclass(frozen=True, eq=False)
class LearnerPolicy:
    """The weights that a run trains, as a rollout server takes them; `motion` watches the optimizer."""

    model: nn.Module
    motion: PolicyMotion

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Merged, by name. Raises `RolloutServerError` for weights that no server takes, or that are not finite."""
        try:
            yield from iter_merged_weights(self.model)
        except UnservableWeights as error:
            raise RolloutServerError(f"weight push: {error}") from error

    def count(self) -> int:
        """How many there are."""
        return len(merged_names(self.model))

    def moved(self) -> bool:
        """Whether an update could have changed them since the last push."""
        return self.motion.moved_since_push()

    def note_push(self) -> None:
        """They have been pushed."""
        self.motion.note_push()


def canary_request(run: Run) -> RolloutRequest:
    """The canary's prompt: that of the first training record."""
    foundation = run.foundation
    samples = foundation.samples["train"]
    return build_requests(samples.records[:1], foundation.encoder, samples.file.image_root)[0]


def canary_noise(config: Config) -> Noise:
    """How far the two sides may differ: that of the coarser of their types."""
    coarser = max((server_dtype(config), config.model.torch_dtype), key=lambda name: NOISE[name].ceiling)
    return NOISE[coarser]
