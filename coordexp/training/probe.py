"""The packing probe of a run, on its own first samples (AUDIT-5.5). Contract ids: FWD-010."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.forward.probe import check_no_leak

if TYPE_CHECKING:
    from coordexp.data.run_inputs import RunSamples
    from coordexp.training.build import Learner

PROBED = 4


def probe_packing(learner: Learner, samples: RunSamples) -> float:
    """Compare the first samples of the run packed and alone, for an attention that no CPU test covers.

    Returns the largest difference; raises `PackingLeak` where they influence each other. A run of one sample has
    nothing that could leak: 0.
    """
    records = samples.records[:PROBED]
    if len(records) < 2:
        return 0.0
    encoder = learner.run.encoder
    encoded = [encoder.encode(record, samples.file.image_root) for record in records]
    return check_no_leak(learner.model, encoded, learner.rope)
