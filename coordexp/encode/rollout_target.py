"""A rollout's prefix and the objects it missed in, the typed tokens of a teacher-forced answer out.

Contract ids: TGT-002..TGT-007. Tokens before the last kept one stay as the rollout wrote them. The kept bytes of that
one and what is appended are encoded together, as one string, so that the target has the tokens that a model trained on
ground truth writes: apart from each other, every seam would cost 11 to 14 nats that no rollout can earn. Types are
given in `encode.assemble`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.coordjson import SEPARATOR, find_closure, own_prefix, render_answer, scan_answer
from coordexp.encode.assemble import byte_offsets, type_rollout
from coordexp.encode.target_length import MissedTokens
from coordexp.encode.types import TargetPlan, TypedAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.coordjson import FieldOrder, ScannedAnswer, Span
    from coordexp.coords.vocab import CoordVocab
    from coordexp.encode.pieces import PieceTable


class ClosureError(ValueError):
    """A target whose outermost closure is not where it was put."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The tokens that follow the unchanged ones. `spans` are their byte offsets in the kept bytes + the appended text.

    Of the prefix's last token `kept` bytes are kept; the last quote among them is at `kept_quote` (0 without one).
    `scan` reads the canonical answer of the missed objects, whose byte 0 would lie at `origin` of the tail.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    kept: int
    kept_quote: int
    scan: ScannedAnswer
    origin: int
    byte_of: Sequence[int]

    def place(self, character: int) -> int:
        """Byte offset in the tail of a character offset in the canonical answer."""
        return self.origin + self.byte_of[character]


@dataclass(frozen=True, slots=True)
class TargetWriter:
    """Writes targets with one tokenizer and one field order.

    Tokens that hold a brace or a bracket hold whole characters (TGT-003), so what is kept of one is text.
    """

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

    def lengths(self, plan: TargetPlan) -> Iterator[int]:
        """Tokens of what `write` makes of `plan`, then of it with one element fewer, down to none.

        Each further one costs a few short texts, however long the answer is.
        """
        missed = MissedTokens(self.tokenize, self.field_order, plan.truths)
        for index in set(range(len(plan.truths))) - {fate.truth for fate in plan.fates}:
            missed.add(index)
        for count in range(len(plan.fates), -1, -1):
            cut = plan.parsed.elements[count - 1].end if count else plan.parsed.opening
            yield max(0, cut.tokens - 1) + missed.count(cut.kept.decode("utf-8"), after_object=count > 0)
            truth = plan.fates[count - 1].truth if count else None
            if truth is not None:
                missed.add(truth)

    def _tail(self, plan: TargetPlan) -> Tail:
        missed = plan.missed
        text = render_answer(missed, self.field_order)
        scan, byte_of = scan_answer(text), byte_offsets(text)
        kept = plan.parsed.prefix.kept
        opening = 0 if plan.parsed.invalid_rollout else scan.opening[1]
        lead = SEPARATOR if plan.parsed.elements and missed else ""
        ids = tuple(self.tokenize(kept.decode("utf-8") + lead + text[opening:]))
        return Tail(
            ids=ids,
            spans=tuple(self.pieces.spans(ids)),
            kept=len(kept),
            kept_quote=max(0, kept.rfind(b'"')),
            scan=scan,
            origin=len(kept) + len(lead) - byte_of[opening],
            byte_of=byte_of,
        )
