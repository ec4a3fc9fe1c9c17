"""Prompt ids and the ids of an answer in, a typed `EncodedSample` out. Contract ids: ENC-003..ENC-005, ENC-019.

The one place where a token gets its type. Where the answer's ids come from is the caller's business: rendered ground
truth, or what a rollout wrote with the objects it missed. Types follow the characters inside a token, since real tokens
are fused (`"},`, `]},`); nothing is re-encoded.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.coordjson import OPENING_OWNER, ParsedObject
from coordexp.encode.types import IGNORE_INDEX, EncodedSample, ObjectSlots, TokenSubset, TokenType, TypedAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.coordjson import PrefixToken
    from coordexp.coordjson.types import ScannedAnswer, Span
    from coordexp.coords.vocab import CoordVocab
    from coordexp.encode.rollout_target import Tail
    from coordexp.encode.types import TargetPlan


# Whose a token is that holds parts of several: a closure is learnt whatever comes before it, a false positive never.
_PRECEDENCE = (
    TokenSubset.CLOSURE,
    TokenSubset.DROPPED,
    TokenSubset.FP,
    TokenSubset.MATCHED,
    TokenSubset.FN,
    TokenSubset.OPENING_INJECTED,
    TokenSubset.OPENING,
)


class TokenAlignmentError(ValueError):
    """Tokens and text disagree about what is written."""


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """What every sample of a tokenizer shares: the image placeholder, `<|im_end|>`, and the newline after it."""

    image: int
    end: int
    newline: tuple[int, ...]

    def sample_length(self, prompt: int, answer: int) -> int:
        """Tokens of a sample whose prompt and answer have these lengths."""
        return prompt + answer + 1 + len(self.newline)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A generation prompt: its ids, with one placeholder per merged vision patch, and the patch grid [t, h, w] of each
    image.
    """

    sample_id: str
    ids: tuple[int, ...]
    grids: tuple[tuple[int, int, int], ...]


def assemble(prompt: Prompt, answer: TypedAnswer, turn: TurnTokens) -> EncodedSample:
    """Prompt, answer, `<|im_end|>` and newline as one sample of T tokens; its pixels are made for the forward.

    Labels equal the ids on the answer and its `<|im_end|>` and are ignored elsewhere, whatever the answer's source;
    weights come from types and subsets.
    """
    start, end = len(prompt.ids), len(prompt.ids) + len(answer.ids)
    input_ids = torch.tensor([*prompt.ids, *answer.ids, turn.end, *turn.newline], dtype=torch.int64)
    types = torch.full_like(input_ids, int(TokenType.OTHER))
    subsets = torch.full_like(input_ids, int(TokenSubset.NONE))
    types[start:end] = torch.tensor(answer.types, dtype=torch.int64)
    subsets[start:end] = torch.tensor(answer.subsets, dtype=torch.int64)
    types[end], subsets[end] = int(TokenType.EOS), int(answer.end_subset)
    return EncodedSample(
        sample_id=prompt.sample_id,
        input_ids=input_ids,
        labels=torch.where(types != int(TokenType.OTHER), input_ids, IGNORE_INDEX),
        token_types=types,
        subsets=subsets,
        mm_token_type_ids=(input_ids == turn.image).to(torch.int64),
        objects=tuple(_shift(slots, start) for slots in answer.objects),
        prompt_length=start,
        image_grid_thw=torch.tensor(prompt.grids, dtype=torch.int64) if prompt.grids else None,
    )


def without_targets(sample: EncodedSample) -> EncodedSample:
    """The same tokens and images with nothing to learn from them."""
    return dataclasses.replace(
        sample,
        labels=torch.full_like(sample.labels, IGNORE_INDEX),
        token_types=torch.full_like(sample.token_types, int(TokenType.OTHER)),
        subsets=torch.full_like(sample.subsets, int(TokenSubset.NONE)),
        objects=(),
    )


def type_ground_truth(
    ids: Sequence[int], spans: Sequence[Span], text: str, scan: ScannedAnswer, coords: CoordVocab
) -> TypedAnswer:
    """Type the tokens of a rendered answer (without its `<|im_end|>`); `spans` are their byte offsets in `text`.

    A token is COORD when it is a coord token of a geometry, found by the scan's structure; DESC when it holds any
    character of a desc value; STRUCT otherwise. Raises `TokenAlignmentError` when a coord token of the text is not
    exactly one token of its bin, or a coord token id stands anywhere else.
    """
    offsets = byte_offsets(text)
    starts = {start: index for index, (start, _) in enumerate(spans)}
    types = [TokenType.STRUCT] * len(ids)
    objects = []
    for found in scan.objects:
        _mark_desc(types, spans, starts, offsets[found.desc_span[0]], offsets[found.desc_span[1]])
        positions = []
        for (start, end), value in zip(found.coord_spans, found.bins, strict=True):
            index = starts.get(offsets[start])
            if index is None or spans[index][1] != offsets[end] or ids[index] != coords.ids[value]:
                raise TokenAlignmentError(
                    f"{text[start:end]} at character {start} of the answer is not the one token with id "
                    f"{coords.ids[value]}"
                )
            types[index] = TokenType.COORD
            positions.append(index)
        objects.append(ObjectSlots(found.item.kind, tuple(positions), found.bins))
    for index, token_id in enumerate(ids):
        if types[index] != TokenType.COORD and coords.bin_of(token_id) is not None:
            raise TokenAlignmentError(f"token {index} of the answer is coord token {token_id}, outside any geometry")
    return TypedAnswer(tuple(ids), tuple(types), (TokenSubset.GT,) * len(ids), tuple(objects), TokenSubset.GT)


def type_rollout(plan: TargetPlan, prefix: Sequence[PrefixToken], tail: Tail, coords: CoordVocab) -> TypedAnswer:
    """Type a rollout's prefix and what is appended to it; `prefix` owns each token of the prefix.

    A token that holds several parts is of the closure, else of a false positive or dropped object, else of an object,
    else of the opening. A matched object's slots aim at its ground truth; those of false positives are none.
    Raises `TokenAlignmentError` where a coord token of the appended text is not the one token of its bin.
    """
    unchanged = max(0, len(prefix) - 1)
    ids = (*plan.response[:unchanged], *tail.ids)
    types = [_prefix_type(token) for token in prefix[:unchanged]]
    subsets = [_prefix_subset(plan, token) for token in prefix[:unchanged]]
    objects = [
        ObjectSlots(element.item.kind, element.coord_positions, plan.truths[fate.truth].bins, fate.subset)
        for element, fate in zip(plan.parsed.elements, plan.fates, strict=True)
        if isinstance(element, ParsedObject) and fate.truth is not None
    ]
    seam = prefix[-1] if prefix else None
    owned = _prefix_subset(plan, seam) if seam else None
    # A desc whose last bytes are kept ends before the quote that closes it.
    desc_end = tail.kept_quote if seam and seam.desc is not None else 0
    starts = {start: index for index, (start, _) in enumerate(tail.spans)}
    tail_types = [TokenType.DESC if start < desc_end else TokenType.STRUCT for start, _ in tail.spans]
    tail_subsets = [_tail_subset(plan, tail, span, owned) for span in tail.spans]
    for found in tail.scan.objects:
        _mark_desc(tail_types, tail.spans, starts, tail.place(found.desc_span[0]), tail.place(found.desc_span[1]))
        positions = []
        for (start, end), value in zip(found.coord_spans, found.bins, strict=True):
            index = starts.get(tail.place(start))
            if index is None or tail.spans[index][1] != tail.place(end) or tail.ids[index] != coords.ids[value]:
                raise TokenAlignmentError(f"bin {value} of a missed object is not the one token {coords.ids[value]}")
            tail_types[index] = TokenType.COORD
            positions.append(unchanged + index)
        objects.append(ObjectSlots(found.item.kind, tuple(positions), found.bins, TokenSubset.FN))
    return TypedAnswer(ids, (*types, *tail_types), (*subsets, *tail_subsets), tuple(objects), TokenSubset.CLOSURE)


def _prefix_type(token: PrefixToken) -> TokenType:
    if token.slot is not None:
        return TokenType.COORD
    return TokenType.STRUCT if token.desc is None else TokenType.DESC


def _prefix_subset(plan: TargetPlan, token: PrefixToken) -> TokenSubset:
    """The subset of a token that holds bytes of some elements, or of the opening."""
    owners = range(token.first, token.last + 1)
    subsets = {TokenSubset.OPENING if owner == OPENING_OWNER else plan.fates[owner].subset for owner in owners}
    return next(subset for subset in _PRECEDENCE if subset in subsets)


def _tail_subset(plan: TargetPlan, tail: Tail, span: Span, seam: TokenSubset | None) -> TokenSubset:
    """The subset of a token of the tail: `seam` is that of the kept bytes."""
    start, end = span
    parts = set()
    if start < tail.kept and seam is not None:
        parts.add(seam)
    if end > tail.kept:
        opening, closure = tail.place(tail.scan.opening[1]), tail.place(tail.scan.closure[0])
        if end > closure:
            parts.add(TokenSubset.CLOSURE)
        if max(start, opening) < min(end, closure):
            parts.add(TokenSubset.FN)
        if max(start, tail.kept) < min(end, opening):
            # Before the first missed object comes its separator, or the opening that an invalid rollout lacks.
            parts.add(TokenSubset.OPENING_INJECTED if plan.parsed.invalid_rollout else TokenSubset.FN)
    return next(subset for subset in _PRECEDENCE if subset in parts)


def byte_offsets(text: str) -> Sequence[int]:
    """Byte offset in the text's UTF-8 of each character offset, the end included."""
    if text.isascii():
        return range(len(text) + 1)
    return [0, *itertools.accumulate(len(character.encode()) for character in text)]


def _mark_desc(types: list[TokenType], spans: Sequence[Span], starts: dict[int, int], start: int, end: int) -> None:
    """Mark every token that holds a byte of `start:end`. The token of the first byte may begin before it."""
    begin = start
    while begin not in starts:
        begin -= 1
    index = starts[begin]
    while index < len(spans) and spans[index][0] < end:
        if spans[index][1] > start:
            types[index] = TokenType.DESC
        index += 1


def _shift(slots: ObjectSlots, start: int) -> ObjectSlots:
    """Slots that count from the answer's first token as slots that count from the sample's."""
    return dataclasses.replace(slots, positions=tuple(start + position for position in slots.positions))
