"""Does this model, on this machine, keep packed samples apart? Samples in, a difference out. Contract ids: FWD-010.

For attention implementations whose proofs cannot run on the test machine (`PackingBackend.proven == "gpu-test"`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from coordexp.forward.teacher import hidden_states
from coordexp.forward.unwrap import unwrap_model
from coordexp.packing.collate import collate_packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.encode.types import EncodedSample
    from coordexp.packing.positions import RopeFunction

# Relative to the largest hidden state: rounding stays well below, a leak is of the order of 1.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


class PackingLeak(RuntimeError):
    """Packed samples influence each other under this attention implementation."""


@torch.no_grad()
def packing_leak(model: nn.Module, samples: Sequence[EncodedSample], rope: RopeFunction) -> float:
    """Largest difference between hidden states of `samples` packed and alone, over the largest hidden state."""
    base = unwrap_model(model)
    training, device = base.training, base.device
    base.eval()
    packed = hidden_states(base, collate_packed(samples, rope).to(device))
    alone = torch.cat([hidden_states(base, collate_packed([sample], rope).to(device)) for sample in samples], dim=1)
    base.train(training)
    return float((packed - alone).abs().max() / alone.abs().max())


def check_no_leak(model: nn.Module, samples: Sequence[EncodedSample], rope: RopeFunction) -> float:
    """The difference of `packing_leak`, or PackingLeak beyond rounding in autocast's dtype, else in the model's."""
    if len(samples) < 2:
        raise ValueError("the packing probe compares samples packed together: give it at least two")
    base = unwrap_model(model)
    kind = base.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.dtype
    leak, tolerance = packing_leak(model, samples, rope), TOLERANCE[dtype]
    if not leak <= tolerance:
        raise PackingLeak(
            f"hidden states of packed samples differ from the same samples alone by {leak:.2g} of their size (allowed: "
            f"{tolerance:.2g}): attention {base.config._attn_implementation!r} lets packed samples see each other. "
            f"Choose another model.attn_impl or turn training.packing off"
        )
    return leak
