"""Pieces of the patterns that every reader of answers is built from: text for `re`, not compiled. TEXT-*."""

from __future__ import annotations

WS = r"[ \t\n\r]*+"
COMMA = f"{WS},{WS}"
# A lone surrogate has no UTF-8 form: neither written out nor escaped does it make a desc.
ESCAPE = (
    r'\\(?:["\\/bfnrt]|u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
BLANKS = r" \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Members of a character class: what `str.strip` takes away, apart from control characters, which are never raw."""
BLANK = (
    rf"(?:[{BLANKS}]|\\(?:[fnrt]|u(?:00(?:0[9a-dA-D]|1[c-fC-F]|20|85|[aA]0)|1680|20(?:0[0-9aA]|2[89fF]|5[fF])|3000)))"
)
"""One character of whitespace, written out or escaped."""
