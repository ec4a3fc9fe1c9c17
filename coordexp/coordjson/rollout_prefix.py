"""What each token of an append-ready prefix is: whose bytes it holds, which desc, which coord slot.

Contract id: PARSE-008.

Every byte has one owner. A separator and whitespace belong to the object before them; what precedes the first object,
to the opening. A fused token holds bytes of several owners, which the two ends of a range name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordexp.coordjson.rollout_types import ParsedObject

if TYPE_CHECKING:
    from coordexp.coordjson.rollout_types import ParsedRollout

OPENING_OWNER = -1
"""The owner of the container's opening; any other is the index of an element."""


@dataclass(frozen=True, slots=True)
class PrefixToken:
    """One token. `first` owns its first byte, `last` its last kept one, and all between them own some of it too.

    `desc` is the valid element whose desc value it holds a byte of, `slot` the valid element and coordinate that it is;
    None otherwise.
    """

    first: int
    last: int
    desc: int | None = None
    slot: tuple[int, int] | None = None


def own_prefix(parsed: ParsedRollout) -> tuple[PrefixToken, ...]:
    """One entry for each of the `parsed.prefix.tokens` kept tokens; the last counts only as far as it is kept."""
    tokens: list[PrefixToken] = []
    owner = OPENING_OWNER
    for index, element in enumerate(parsed.elements):
        begin = element.span[0]
        # Tokens before this object's `{`, or before the token that holds it, are all of the owner before.
        tokens += [PrefixToken(owner, owner)] * (begin - len(tokens))
        if element.offset:
            first = tokens.pop().first if len(tokens) > begin else owner
            tokens.append(PrefixToken(first, index))
        owner = index
    tokens += [PrefixToken(owner, owner)] * (parsed.prefix.tokens - len(tokens))
    for index, element in enumerate(parsed.elements):
        if isinstance(element, ParsedObject):
            for at in range(*element.desc_span):
                tokens[at] = replace(tokens[at], desc=index)
            for number, at in enumerate(element.coord_positions):
                tokens[at] = replace(tokens[at], slot=(index, number))
    return tuple(tokens)


def keep_elements(parsed: ParsedRollout, count: int) -> ParsedRollout:
    """The same rollout with its first `count` elements alone and a shorter prefix; flags stay those of the answer."""
    if not 0 <= count <= len(parsed.elements):
        raise ValueError(f"count must be in 0..{len(parsed.elements)}, the number of elements; got {count}")
    return replace(parsed, elements=parsed.elements[:count])
