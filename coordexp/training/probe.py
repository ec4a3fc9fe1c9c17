"""The packing probe of a run, on its own first samples (AUDIT-5.5). Contract ids: FWD-010."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from coordexp.forward.probe import check_no_leak

if TYPE_CHECKING:
    from coordexp.data.run_inputs import RunSamples
    from coordexp.packing.plan import PackPlan
    from coordexp.training.build import Learner

PROBED = 4


def probe_packing(learner: Learner, samples: RunSamples, packs: PackPlan) -> float:
    """Compare the first samples of the run packed and alone, for an attention that no CPU test covers.

    Returns the largest difference; raises `PackingLeak` where they influence each other. A run of one sample has
    nothing that could leak: 0.
    """
    indices = list(islice(chain.from_iterable(packs.packs), PROBED))
    if len(indices) < 2:
        return 0.0
    encoder = learner.run.encoder
    encoded = [encoder.encode(samples.records[index], samples.file.image_root) for index in indices]
    return check_no_leak(learner.model, encoded, learner.rope)
