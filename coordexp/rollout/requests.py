"""Records in, rollout requests out: the prompt that training showed and the image it showed. Contract id: ROLL-004."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.data.paths import resolve_record_images
from coordexp.encode.images import read_image
from coordexp.rollout.types import RolloutError, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder
    from coordexp.rollout.types import RolloutOutput

_NEIGHBOURS = 4
"""Tokens that are shown on either side of the first that differs."""


def build_requests(
    records: Iterable[Record], encoder: Encoder, image_root: Path | None = None, first: int = 0
) -> list[RolloutRequest]:
    """One request per record, its sample id the record's source, its index counted from `first`.

    Raises what encoding raises for a record that cannot be shown as it stands: an image that is missing, of another
    size than the record says, or that would have to be resized.
    """
    requests = []
    for index, record in enumerate(records, first):
        paths = resolve_record_images(record, image_root)
        for path in paths:
            read_image(record, path)
        sizes = ((record.width, record.height),) * len(paths)
        requests.append(RolloutRequest(record.source, encoder.prompt(record).ids, paths, index, sizes))
    return requests


def check_prompts(requests: Sequence[RolloutRequest], outputs: list[RolloutOutput]) -> list[RolloutOutput]:
    """Return `outputs` if each answers the prompt that the learner encoded; raise `RolloutError` with the first token
    that differs and its neighbours on both sides.
    """
    if len(outputs) != len(requests):
        raise RolloutError(f"{len(requests)} prompts were sent and {len(outputs)} answers came back")
    for request, output in zip(requests, outputs, strict=True):
        sent, answered = request.prompt_token_ids, output.prompt_token_ids
        if output.sample_id != request.sample_id:
            raise RolloutError(f"the answer for {request.sample_id} is one for {output.sample_id}")
        if sent == answered:
            continue
        pairs = enumerate(zip(sent, answered, strict=False))
        at = next((index for index, (ours, theirs) in pairs if ours != theirs), min(len(sent), len(answered)))
        near = slice(max(0, at - _NEIGHBOURS), at + _NEIGHBOURS + 1)
        raise RolloutError(
            f"{request.sample_id}: the rollout backend has answered another prompt ({len(answered)} tokens) than the "
            f"learner's ({len(sent)}); token {at} is the first that differs: {list(sent[near])} were sent, "
            f"{list(answered[near])} answered. Both sides must use one checkpoint's tokenizer and template"
        )
    return outputs
