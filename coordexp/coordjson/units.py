"""Token ids in, one string of units out, which patterns read: a byte is a unit, a coord token is a unit.

Contract ids: PARSE-002. Text does not show whether a coord token is one token or spelled with ordinary ones, and a
token may hold part of a character. So byte b is `chr(b)`, and the coord token of bin k is `chr(256 + k)`.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from typing import TYPE_CHECKING

from coordexp.coordjson.rollout_types import Cut
from coordexp.coords.codec import N_BINS, render_coord_token

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from coordexp.coordjson.types import Span

_FIRST_COORD = 256
_END = chr(_FIRST_COORD + N_BINS)
_BYTES = "latin-1"  # the encoding in which byte b is character b
COORDS = f"{chr(_FIRST_COORD)}-{chr(_FIRST_COORD + N_BINS - 1)}"
"""The coord tokens as members of a character class."""
_COORD = re.compile(f"[{COORDS}]")


class RolloutVocabulary(dict[int, str]):
    """How each token id reads in units, looked up once per id.

    `piece(id)` gives the bytes of any id, `bins` the bin of each coord token, `control` the ids that end an answer.
    """

    def __init__(self, piece: Callable[[int], bytes], bins: Mapping[int, int], control: Collection[int]) -> None:
        self._piece = piece
        special = {token: chr(_FIRST_COORD + value) for token, value in bins.items()}
        super().__init__(special | dict.fromkeys(control, _END))

    def __missing__(self, token_id: int) -> str:
        units = self[token_id] = self._piece(token_id).decode(_BYTES)
        return units


class UnitText:
    """The units of a response up to its first control token, and which token holds each."""

    def __init__(self, ids: Sequence[int], vocabulary: RolloutVocabulary) -> None:
        pieces = list(map(vocabulary.__getitem__, ids))
        self.text = "".join(pieces)
        self.length = len(pieces)
        if _END in self.text:
            self.length = pieces.index(_END)
            self.text = self.text[: self.text.index(_END)]
        self.starts = list(itertools.accumulate(map(len, pieces), initial=0))

    def token(self, position: int) -> int:
        """Index of the token that holds the unit at `position`."""
        return bisect_right(self.starts, position) - 1

    def span(self, start: int, end: int) -> Span:
        """Tokens that hold any of the units `start:end`, of which there is at least one."""
        return bisect_right(self.starts, start) - 1, bisect_right(self.starts, end - 1)

    def cut(self, end: int) -> Cut:
        """The cut just after the unit before `end`, which is a byte of structure."""
        token = bisect_right(self.starts, end - 1)
        start = self.starts[token - 1]
        return Cut(token, end - start, self.text[start:end].encode(_BYTES))


def spell(units: str) -> str:
    """The text of some units: coord tokens by name, bytes that are no UTF-8 as U+FFFD."""
    if units.isascii():
        return units
    named = _COORD.sub(lambda match: render_coord_token(ord(match[0]) - _FIRST_COORD), units)
    return named.encode(_BYTES).decode(errors="replace")


def bin_of(unit: str) -> int:
    """The bin of a coord token's unit."""
    return ord(unit) - _FIRST_COORD
