"""How sure the model was of each object it wrote. Contract id: EVAL-008.

An answer with the log-probabilities of its tokens, and its parse, enter; one score in [0, 1] per object leaves: the
geometric mean of the probabilities of the object's coord tokens, so that one unsure corner costs the object its rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.coordjson import ParsedRollout
    from coordexp.rollout.types import RolloutOutput


def score_by_coords(output: RolloutOutput, parsed: ParsedRollout) -> tuple[float, ...]:
    """Scores of the valid objects of `parsed`, which is the parse of `output`; raises `ValueError` without
    log-probabilities.
    """
    logprobs = output.token_logprobs
    if logprobs is None:
        raise ValueError(
            f"sample {output.sample_id}: confidence needs the tokens' log-probabilities; "
            "ask the backend for them (logprobs=True)"
        )
    return tuple(
        math.exp(sum(logprobs[at] for at in found.coord_positions) / len(found.coord_positions))
        for found in parsed.objects
    )
