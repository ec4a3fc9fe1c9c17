"""Ground truth in, how many tokens its missed part takes behind a prefix out, kept up to date as more is missed.

Contract id: TGT-007. A tokenizer encodes what stands between two coord tokens by itself, so an answer's length is a sum
over such texts, and one more object changes only those beside it.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import TYPE_CHECKING

from coordexp.coordjson import CLOSURE, OPENING, SEPARATOR, render_object
from coordexp.coords.codec import render_coord_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coordexp.coordjson import FieldOrder
    from coordexp.coords.types import CoordObject


class MissedTokens:
    """The missed objects of a target, by their index in the ground truth, and the tokens they take."""

    def __init__(self, tokenize: Callable[[str], list[int]], order: FieldOrder, truths: Sequence[CoordObject]) -> None:
        @cache
        def length(text: str) -> int:
            return len(tokenize(text))

        self._length = length
        self._frames = [frame(item, order) for item in truths]
        self._coords = [len(item.bins) + (len(item.bins) - 1) * length(SEPARATOR) for item in truths]
        self._missed: list[int] = []
        self._inside = 0  # tokens from the first coord token to the last

    def add(self, index: int) -> None:
        """One more object is missed."""
        at = bisect_left(self._missed, index)
        before, after = self._missed[max(0, at - 1) : at], self._missed[at : at + 1]
        self._inside += self._coords[index]
        self._inside += self._between(before, [index]) + self._between([index], after) - self._between(before, after)
        self._missed.insert(at, index)

    def count(self, kept: str, *, after_object: bool) -> int:
        """Tokens of the kept text of a prefix, the missed objects and the closure.

        Nothing kept is a rollout without a container, and takes the opening along.
        """
        start = kept or OPENING
        if not self._missed:
            return self._length(start + CLOSURE)
        head = start + (SEPARATOR if after_object else "") + self._frames[self._missed[0]][0]
        return self._length(head) + self._inside + self._length(self._frames[self._missed[-1]][1] + CLOSURE)

    def _between(self, before: list[int], after: list[int]) -> int:
        """Tokens between the coords of two neighbours; none where one of them is not there."""
        return sum(self._length(self._frames[a][1] + SEPARATOR + self._frames[b][0]) for a in before for b in after)


def frame(item: CoordObject, order: FieldOrder) -> tuple[str, str]:
    """What an object's text holds before its first coord token, and after its last."""
    text, coords = render_object(item, order), SEPARATOR.join(map(render_coord_token, item.bins))
    before, _, after = text.partition(coords)
    return before, after
