"""Keys that an annotation file writes twice: decoders keep one of the values without a word, so they are refused.

Enters: the text of a file that decodes. Leaves: nothing, or `DataError` with line, column and byte of the second key,
be it that of a list, of an entry in one of the lists, or deeper. Contract ids: DATA-041.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from coordexp.data.coco_rules import LISTS
from coordexp.data.errors import DataError
from coordexp.spec import unique_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.data.annotation_text import JsonText

_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[\[\]{}]', re.DOTALL)
"""Texts, with the colon that makes a key of one, and brackets. Nothing else of JSON holds either."""


def check_keys(text: JsonText) -> None:
    """Raise `DataError` at the first key that one of the lists, or an object in it, has before."""
    if _may_repeat(text.content):
        for offset, key, top in _repeated_keys(text.content):
            what = "Keep one list of them" if top == key else "Keep one of the two values"
            where = "" if top == key else f" in one entry of {top}"
            raise DataError(f"{text.source}: {text.place(offset)}: {key!r} is written a second time{where}. {what}")


def _may_repeat(content: bytes) -> bool:
    """The quick question, asked of every file; where Python's parser has limits that ours has not, it stays open."""
    try:
        json.loads(content, object_pairs_hook=_forget)
    except (RecursionError, ValueError):
        return True
    return False


def _forget(pairs: list[tuple[str, Any]]) -> None:
    """Keep nothing of an object, so that a large file takes no room."""
    unique_pairs(pairs)


def _repeated_keys(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Offset and text of each second key, and the list that it is, or stands in."""
    keys: list[set[str]] = []
    top = ""
    for match in _TOKENS.finditer(content):
        token = match[0]
        if token in (b"{", b"["):
            keys.append(set())
        elif token in (b"}", b"]"):
            keys.pop()
        elif match[1] is not None:
            key = json.loads(token[: match.start(1) - match.start()])
            top = key if len(keys) == 1 else top
            if key in keys[-1] and top in LISTS:
                yield match.start(), key, top
            keys[-1].add(key)
