"""Bytes of an answer in, where its outermost closure stands out. Contract ids: TGT-004."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.coordjson.types import Span

# A string from quote to quote, whatever it holds, or one of the marks that count outside strings.
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}]', re.DOTALL)


def find_closure(content: bytes) -> Span | None:
    """Byte range from the `]` of the outermost array to the `}` of the outermost object; None where there is none.

    Braces and brackets in strings do not count, and the last `}` of the text is not taken for it: what follows the
    outermost object is no part of the answer.
    """
    depth, array_end = 0, None
    for mark in _MARKS.finditer(content):
        match mark[0]:
            case b"{":
                depth += 1
            case b"}":
                depth -= 1
                if depth <= 0:
                    return None if depth < 0 or array_end is None else (array_end, mark.end())
            case b"]" if depth == 1:
                array_end = mark.start()
    return None
