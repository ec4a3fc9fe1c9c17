"""contracts/coordjson/coordjson.lark in, a regular expression of the answers that this project writes out. TEXT-*,
ROLL-050.

Decoding by it can write nothing that the grammar refuses. It says less than the grammar does: one order of the fields,
the canonical separators, and descs in one spelling. x1 <= x2 and y1 <= y2 no regular expression says.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, get_args

from coordexp.coordjson.lexemes import BLANKS
from coordexp.coordjson.render import FIELD_ORDERS, SEPARATOR
from coordexp.coords.types import GeometryKind
from coordexp.spec import read_grammar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.coordjson.render import FieldOrder

_WRITTEN = {",": SEPARATOR, ":": ": "}
_PLAIN = {
    "BLANK": "/ /",
    # Without `<` a desc spells no special token, so `<` begins a coord token wherever it stands: what masks tokens
    # relies on that (`coordexp.rollout.grammar`). Quotes and backslashes alone are escaped, as `render` does.
    "SOLID": rf'/(?:[^<"\\\x00-\x1f\x7f-\x9f{BLANKS}\ud800-\udfff]|\\["\\])/',
}
_DEFINITION = re.compile(r"^\??(\w+): (.+(?:\n +\|.+)*)", re.MULTILINE)
_NAMED = re.compile(r"([^|]+?) +-> (\w+)")
_PART = re.compile(r'"((?:[^"\\]|\\.)+)"|/((?:[^/\\]|\\.)+)/|(\w+)|([()|*+?])|\s+')
_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")


@lru_cache
def render_expression(field_order: FieldOrder, kinds: Sequence[GeometryKind] = ("bbox_2d",)) -> str:
    """The expression of whole answers with geometries of `kinds`, in the dialect that `re` and xgrammar share.

    Every canonical rendering of sound objects matches it, where descs hold no `<`, no control character and no
    whitespace but spaces. Raises `ValueError` for an unknown order or kind.
    """
    if field_order not in FIELD_ORDERS:
        raise ValueError(f"object_field_order is one of {', '.join(FIELD_ORDERS)}; got {field_order!r}")
    if not kinds or not set(kinds) <= set(get_args(GeometryKind)):
        raise ValueError(f"geometry kinds are one or more of {', '.join(get_args(GeometryKind))}; got {kinds!r}")
    rules: dict[str, str] = dict(_DEFINITION.findall(read_grammar("coordjson")))
    orders = {name: body for body, name in _NAMED.findall(rules["object"])}
    rules |= _PLAIN | {"geometry": " | ".join(kinds), "object": orders[field_order]}
    return _expand("start", rules)


def _expand(name: str, rules: dict[str, str]) -> str:
    """The expression of one rule or terminal."""
    body, parts, position = rules[name], [], 0
    while position < len(body):
        part = _PART.match(body, position)
        assert part is not None, f"{name}: nothing here reads {body[position:]!r}"
        position = part.end()
        text, pattern, rule, sign = part.groups()
        if text is not None:
            plain = re.sub(r"\\(.)", r"\1", text)
            parts.append(_SPECIAL.sub(r"\\\g<0>", _WRITTEN.get(plain, plain)))
        elif rule is not None:
            parts.append(f"(?:{_expand(rule, rules)})")
        else:
            parts.append(pattern or ("(?:" if sign == "(" else sign or ""))
    return "".join(parts)
