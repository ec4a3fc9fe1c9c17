"""A rollout's prefix and the objects it missed in, the typed tokens of a teacher-forced answer out. TGT-*.

Tokens before the last kept one stay as the rollout wrote them. The kept bytes of that one and what is appended are
encoded together, as one string, so that the target has the tokens that a model trained on ground truth writes: apart
from each other, every seam would cost 11 to 14 nats that no rollout can earn. Types are given in `encode.assemble`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.coordjson import SEPARATOR, find_closure, own_prefix, render_answer, scan_answer
from coordexp.encode.assemble import byte_offsets, type_rollout
from coordexp.encode.types import TargetPlan, TypedAnswer

if TYPE_CHECKING:
    from coordexp.coordjson import FieldOrder, ScannedAnswer, Span
    from coordexp.coords.vocab import CoordVocab
    from coordexp.encode.pieces import PieceTable


class ClosureError(ValueError):
    """A target whose outermost closure is not where it was put."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The tokens that follow the unchanged ones. `spans` are their byte offsets in the kept bytes + the appended text.

    `kept` bytes come from the last `reencoded` tokens of the prefix (0 where nothing is kept); the last quote among
    them is at `kept_quote` (0 without one). `scan` reads the canonical answer of the missed objects, whose byte 0 would
    lie at `origin` of the tail.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    kept: int
    kept_quote: int
    reencoded: int
    scan: ScannedAnswer
    origin: int
    byte_of: Sequence[int]

    def place(self, character: int) -> int:
        """Byte offset in the tail of a character offset in the canonical answer."""
        return self.origin + self.byte_of[character]


@dataclass(frozen=True, slots=True)
class TargetWriter:
    """Writes targets with one tokenizer and one field order."""

    tokenize: Callable[[str], list[int]]
    pieces: PieceTable
    coords: CoordVocab
    field_order: FieldOrder

    def write(self, plan: TargetPlan) -> TypedAnswer:
        """The answer that `plan` describes, typed; an invalid rollout's is that of ground truth, token for token.

        Raises `ClosureError` where a scan of what is written does not find the outermost closure where it was put.
        """
        tail = self._tail(plan)
        typed = type_rollout(plan, own_prefix(plan.parsed), tail, self.coords)
        unchanged = typed.ids[: len(typed.ids) - len(tail.ids)]
        before = sum(len(self.pieces.any_piece(token)) for token in unchanged)
        placed = tuple(before + tail.place(character) for character in tail.scan.closure)
        found = find_closure(b"".join(map(self.pieces.any_piece, typed.ids)))
        if found != placed:
            raise ClosureError(f"the closure was put at bytes {placed} of the answer, and a scan finds it at {found}")
        return typed

    def _tail(self, plan: TargetPlan) -> Tail:
        text = render_answer(plan.missed, self.field_order)
        scan, byte_of = scan_answer(text), byte_offsets(text)
        kept, reencoded = self._kept(plan)
        if plan.parsed.invalid_rollout:
            written = text
            origin = 0
        else:
            opening = scan.opening[1]
            lead = SEPARATOR if plan.parsed.elements and plan.missed else ""
            written = kept.decode("utf-8") + lead + text[opening:]
            origin = len(kept) + len(lead) - byte_of[opening]
        ids = tuple(self.tokenize(written))
        quote = max(0, kept.rfind(b'"'))
        return Tail(ids, tuple(self.pieces.spans(ids)), len(kept), quote, reencoded, scan, origin, byte_of)

    def _kept(self, plan: TargetPlan) -> tuple[bytes, int]:
        """The kept bytes of the prefix's last token, and 1; of more tokens where they begin inside a character."""
        cut = plan.parsed.prefix
        if not cut.tokens:
            return b"", 0
        kept, count = cut.kept, 1
        while not is_utf8(kept) and count < cut.tokens:
            count += 1
            kept = self.pieces.any_piece(plan.response[cut.tokens - count]) + kept
        return kept, count


def is_utf8(content: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
