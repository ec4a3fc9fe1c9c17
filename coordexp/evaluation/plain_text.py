"""Any text as letters that a picture or a terminal can show. Contract ids: ART-016.

Enters: what a model wrote, or a name of the data. Leaves: one line without control, formatting or surrogate characters.
"""

from __future__ import annotations

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""General categories of characters that break lines, turn the writing's direction, or are no text at all."""


def plain(text: str, limit: int | None = None) -> str:
    """`text` with its unseen characters as escapes (`\\n`, `\\u202e`), at most `limit` letters of it."""
    # Cut before escaping, for a long text, and after, for one of escapes.
    shown = text if limit is None else text[: limit + 1]
    shown = "".join(_escaped(letter) if unicodedata.category(letter) in _UNSEEN else letter for letter in shown)
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
