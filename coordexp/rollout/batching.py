"""Length gate, batch plan and left-padded token batches for local generation. Contract ids: ROLL-001, ROLL-003.

Requests enter, index batches and token tensors leave; nothing here touches a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from coordexp.rollout.types import RolloutError, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_length_budget(
    requests: Sequence[RolloutRequest],
    max_new_tokens: int,
    max_positions: int,
    limit: str = "the model's max_position_embeddings",
) -> Sequence[RolloutRequest]:
    """Return `requests` if every prompt plus `max_new_tokens` fits in `max_positions` tokens, which an error calls
    `limit` (AUDIT-12.3).

    Raises `RolloutError` naming the longest prompt, the three numbers and the largest `max_new_tokens` that fits.
    """
    if max_new_tokens < 1:
        raise RolloutError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    for request in requests:
        if not request.prompt_token_ids:
            raise RolloutError(
                f"sample {request.sample_id}: the prompt is empty; encode it before asking for a rollout"
            )
    longest = max(requests, key=lambda r: len(r.prompt_token_ids), default=None)
    if longest is None or len(longest.prompt_token_ids) + max_new_tokens <= max_positions:
        return requests
    prompt = len(longest.prompt_token_ids)
    advice = (
        f"lower max_new_tokens to {max_positions - prompt} or less"
        if prompt < max_positions
        else "shorten the prompt or cook smaller images"
    )
    raise RolloutError(
        f"sample {longest.sample_id}: prompt of {prompt} tokens + max_new_tokens {max_new_tokens} = "
        f"{prompt + max_new_tokens} exceeds {limit} {max_positions}; {advice}"
    )


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Split indices into batches of at most `batch_size`, longest prompts first so that a batch holds similar lengths.

    Every index occurs once. Stable: equal lengths keep their order, so the plan depends on `lengths` alone.
    """
    if batch_size < 1:
        raise RolloutError(f"decode_batch_size must be at least 1, got {batch_size}")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, int64 [B, T], each row flush with the right edge so that all continue at column
    T.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[number, width - len(row) :] = 1
    return ids, mask
