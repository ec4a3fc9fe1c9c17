"""A slow parse of a rollout, written from the contract's text alone, that the real one is compared with.

It goes byte by byte, then lexeme by lexeme: no regular expression, no offsets into strings, no shortcut. Everything it
finds is in `Reading`, as plain tuples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

FORMER = {"bbox", "polygon", "line", "point", "geometry", "poly_points", "segmentation"}


@dataclass(frozen=True)
class Atom:
    """A byte of a token, or a whole coord token (`bin` set)."""

    token: int
    offset: int
    byte: int = -1
    bin: int | None = None


@dataclass(frozen=True)
class Lexeme:
    """`kind` is one of `{ } [ ] : ,`, `string`, `open` (a string without an end), `coord` or `junk`."""

    kind: str
    atoms: tuple[Atom, ...]


@dataclass
class Reading:
    """`elements` are `("valid", desc, kind, bins, field order, desc span, coord tokens, span, offset)` or
    `("dropped", reason, span, offset)`; `kept` is tokens, offset and bytes of the cut, `owners` a pair for each token.
    """

    elements: list[tuple] = field(default_factory=list)
    length: int = 0
    invalid: bool = False
    truncated: bool = False
    malformed: bool = False
    strict: bool = False
    kept: tuple[int, int, bytes] = (0, 0, b"")
    owners: list[tuple[int, int]] = field(default_factory=list)


def read_reference(
    ids: Sequence[int], piece: Callable[[int], bytes], bins: Mapping[int, int], control: Collection[int], poly: bool
) -> Reading:
    reading = Reading()
    atoms: list[Atom] = []
    for token, token_id in enumerate(ids):
        if token_id in control:
            break
        if token_id in bins:
            atoms.append(Atom(token, 0, bin=bins[token_id]))
        else:
            atoms += [Atom(token, offset, byte) for offset, byte in enumerate(piece(token_id))]
        reading.length = token + 1
    lexemes = lex(atoms)
    kinds = [lexeme.kind for lexeme in lexemes]
    if kinds[:4] != ["{", "string", ":", "["] or raw_text(lexemes[1]) != '"objects"':
        reading.invalid = True
        reading.truncated = closing(kinds, 0, 0) is None
        return reading
    at, clean, ended = 4, True, False
    while not ended:
        at, clean, ended = read_element(lexemes, kinds, at, reading, clean, poly)
    if at < len(lexemes):
        reading.malformed = kinds[at] != "]"
        reading.truncated = closing(kinds, at, 1) is None
        clean = clean and kinds[at:] == ["]", "}"]
    else:
        reading.truncated, clean = True, False
    reading.strict = clean
    last = reading.elements[-1][-1] if reading.elements else lexemes[3].atoms[-1]
    keep(reading, atoms, last)
    reading.elements = [element[:-1] for element in reading.elements]
    return reading


def read_element(
    lexemes: list[Lexeme], kinds: list[str], at: int, reading: Reading, clean: bool, poly: bool
) -> tuple[int, bool, bool]:
    """Where to go on, whether all is well-formed so far, and whether reading ends there."""
    if at == len(kinds) or kinds[at] != "{":
        after_comma = bool(reading.elements)
        return at, clean and not (after_comma and at < len(kinds) and kinds[at] == "]"), True
    end = closing(kinds, at, 0)
    if end is None:
        return len(kinds), False, True
    inside = lexemes[at + 1 : end]
    reason, found = judge(inside, poly)
    first, last = lexemes[at].atoms[0], lexemes[end].atoms[-1]
    span = (first.token, last.token + 1)
    if reason:
        reading.elements.append(("dropped", reason, span, first.offset, last))
        clean = clean and reason == "poly_unsupported"
    else:
        reading.elements.append(("valid", *found, span, first.offset, last))
    at = end + 1
    if at < len(kinds) and kinds[at] == ",":
        return at + 1, clean, False
    return at, clean, True


def lex(atoms: list[Atom]) -> list[Lexeme]:
    found, at = [], 0
    while at < len(atoms):
        atom = atoms[at]
        sign = chr(atom.byte) if atom.byte >= 0 else ""
        if sign in tuple(" \t\n\r"):
            at += 1
        elif sign == '"':
            end = string_end(atoms, at)
            closed = end is not None
            found.append(Lexeme("string" if closed else "open", tuple(atoms[at:end])))
            at = end if closed else len(atoms)
        else:
            kind = "coord" if atom.bin is not None else sign if sign in tuple("{}[]:,") else "junk"
            found.append(Lexeme(kind, (atom,)))
            at += 1
    return found


def string_end(atoms: list[Atom], start: int) -> int | None:
    at = start + 1
    while at < len(atoms):
        if atoms[at].byte == ord("\\"):
            at += 2
        elif atoms[at].byte == ord('"'):
            return at + 1
        else:
            at += 1
    return None


def closing(kinds: list[str], start: int, depth: int) -> int | None:
    """Index of the `}` that brings the depth back to 0."""
    for at in range(start, len(kinds)):
        if kinds[at] == "{":
            depth += 1
        elif kinds[at] == "}" and depth > 0:
            depth -= 1
            if depth == 0:
                return at
    return None


def judge(inside: list[Lexeme], poly: bool) -> tuple[str, tuple]:
    """The reason for dropping an object ("" for none), and what a valid one holds."""
    members: dict[str, tuple] = {}
    queue = list(inside)
    while queue:
        fault = take_member(queue, members)
        if fault:
            return fault, ()
        if queue and (queue.pop(0).kind != "," or not queue):
            return "key_invalid", ()
    kinds = [name for name in members if name != "desc"]
    if "desc" not in members:
        return "missing_desc", ()
    if not kinds:
        return "missing_geom", ()
    if kinds == ["poly"] and not poly:
        return "poly_unsupported", ()
    values, tokens = members[kinds[0]]
    if kinds == ["bbox_2d"] and (values[0] > values[2] or values[1] > values[3]):
        return "bbox_invalid", ()
    desc, where = members["desc"]
    order = "desc_first" if next(iter(members)) == "desc" else "geometry_first"
    return "", (desc, kinds[0], values, order, where, tokens)


def take_member(queue: list[Lexeme], members: dict[str, tuple]) -> str:
    """Take `"key": value` from the queue; returns what is wrong with it."""
    key = queue.pop(0)
    if key.kind != "string" or text_of(key) is None:
        return "key_invalid"
    name = raw_text(key)[1:-1]
    if name in members or (name in ("bbox_2d", "poly") and {"bbox_2d", "poly"} & set(members)):
        return "key_invalid"
    if name not in ("desc", "bbox_2d", "poly"):
        return "unknown_geom" if name in FORMER or name[:4] in ("bbox", "poly") else "key_invalid"
    if not queue or queue.pop(0).kind != ":":
        return "key_invalid"
    return take_desc(queue, members) if name == "desc" else take_coords(queue, members, name)


def take_desc(queue: list[Lexeme], members: dict[str, tuple]) -> str:
    value = queue.pop(0) if queue else None
    text = text_of(value) if value is not None and value.kind == "string" else None
    if text is None or not text.strip():
        return "missing_desc"
    tokens = [atom.token for atom in value.atoms[1:-1]]
    members["desc"] = (text, (min(tokens), max(tokens) + 1))
    return ""


def take_coords(queue: list[Lexeme], members: dict[str, tuple], name: str) -> str:
    found: list[Atom] = []
    sign = queue.pop(0).kind if queue else ""
    if sign != "[":
        return "non_coord_token"
    while sign != "]":
        value = queue.pop(0) if queue else None
        if value is not None and value.kind == "]" and not found:
            break
        if value is None or value.kind != "coord":
            return "non_coord_token"
        found += value.atoms
        sign = queue.pop(0).kind if queue else ""
        if sign not in (",", "]"):
            return "non_coord_token"
    right = len(found) == 4 if name == "bbox_2d" else len(found) >= 6 and len(found) % 2 == 0
    members[name] = (tuple(atom.bin for atom in found), tuple(atom.token for atom in found))
    return "" if right else "wrong_arity"


def spelled(atoms: Sequence[Atom]) -> bytes:
    return b"".join(f"<|coord_{a.bin}|>".encode() if a.bin is not None else bytes([a.byte]) for a in atoms)


def raw_text(lexeme: Lexeme) -> str:
    return spelled(lexeme.atoms).decode("utf-8", errors="replace")


def text_of(lexeme: Lexeme) -> str | None:
    """What a string says; None for one that JSON does not read or that has no UTF-8 form."""
    try:
        text = json.loads(raw_text(lexeme))
        text.encode()
    except ValueError:
        return None
    return text


def keep(reading: Reading, atoms: list[Atom], last: Atom) -> None:
    """The append-ready prefix, which ends with the byte `last`, and who owns each of its tokens."""
    starts = [(element[-3][0], element[-2]) for element in reading.elements]
    kept: dict[int, list[Atom]] = {}
    for atom in atoms:
        kept.setdefault(atom.token, []).append(atom)
        if atom == last:
            break
    reading.kept = (last.token + 1, last.offset + 1, spelled(kept[last.token]))
    for held in kept.values():
        owners = [sum(start <= (atom.token, atom.offset) for start in starts) - 1 for atom in held]
        reading.owners.append((min(owners), max(owners)))
