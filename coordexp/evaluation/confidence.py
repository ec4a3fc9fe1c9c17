"""How sure the model was of each object it wrote. Contract id: EVAL-008.

An answer with the log-probabilities of its tokens enters; one score in [0, 1] per object leaves: the mean probability
of the object's coord tokens.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from coordexp.coordjson import scan_answer

if TYPE_CHECKING:
    from coordexp.coords.vocab import CoordVocab
    from coordexp.evaluation.detections import Scorer
    from coordexp.rollout.types import RolloutOutput

_COORD_TEXT = re.compile(r"<\|coord_(?:0|[1-9][0-9]{0,2})\|>")


def build_coord_scorer(vocab: CoordVocab) -> Scorer:
    """A scorer for answers of `vocab`'s tokenizer that came with log-probabilities."""
    coord_ids = frozenset(vocab.ids)

    def score(output: RolloutOutput) -> tuple[float, ...]:
        """Scores of an answer that scans, in order; raises `ValueError` where tokens and text cannot be aligned."""
        if output.token_logprobs is None:
            raise ValueError(
                f"sample {output.sample_id}: confidence needs the tokens' log-probabilities; "
                "ask the backend for them (logprobs=True)"
            )
        pairs = zip(output.response_token_ids, output.token_logprobs, strict=True)
        probabilities = [math.exp(logprob) for token, logprob in pairs if token in coord_ids]
        starts = [match.start() for match in _COORD_TEXT.finditer(output.text)]
        if len(starts) != len(probabilities):
            raise ValueError(
                f"sample {output.sample_id}: the text holds {len(starts)} coord tokens, the answer's ids "
                f"{len(probabilities)}; a description spells a coord token with ordinary tokens"
            )
        at = dict(zip(starts, probabilities, strict=True))
        return tuple(
            sum(at[start] for start, _ in obj.coord_spans) / len(obj.coord_spans)
            for obj in scan_answer(output.text).objects
        )

    return score
