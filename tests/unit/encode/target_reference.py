"""A slow target of a rollout, written from the contract's text alone, that the real one is compared with.

Every byte of the target has one owner: the opening, an object, the closure. Bytes are then gathered under tokens: the
rollout's own up to the last kept one, from there on those that the tokenizer gives to the kept bytes and what is
appended, as one string. Last, each token takes one of its owners by the contract's precedence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordexp.coords.types import CoordObject
from tests.unit.coordjson.rollout_reference import Reading


@dataclass(frozen=True)
class Byte:
    """`owner` is one of opening, opening_injected, matched, fp, dropped, fn, closure; `number` tells objects apart."""

    value: int
    owner: str
    number: int = -1
    desc: bool = False


@dataclass
class Target:
    """One entry a token, `<|im_end|>` last; `slots` are `(owner, positions, bins)` in the order written."""

    ids: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    slots: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    text: bytes = b""


@dataclass(frozen=True)
class Scribe:
    """What is asked of a tokenizer: bytes of an id, ids of a text, the bin of each coord id, the end."""

    piece: Callable[[int], bytes]
    encode: Callable[[str], list[int]]
    bins: Mapping[int, int]
    end: int


@dataclass(frozen=True)
class Given:
    """A response and what it is to become. `pairs` maps a valid object (by its number among the valid) to the ground
    truth that it is.
    """

    ids: Sequence[int]
    reading: Reading
    truths: Sequence[CoordObject]
    pairs: Mapping[int, int]
    order: str


def write_reference(scribe: Scribe, given: Given, knobs: Mapping[str, float], keep: int | None = None) -> Target:
    """The target, of which the prefix keeps `keep` elements."""
    reading, truths = given.reading, given.truths
    elements = reading.elements if keep is None else reading.elements[:keep]
    fates = settle(elements, given.pairs)
    names = [name for name, _ in fates]
    taken = {truth for _, truth in fates if truth is not None}
    missed = [truth for number, truth in enumerate(truths) if number not in taken]
    target = Target()
    aims = {("matched", number): truths[truth].bins for number, (_, truth) in enumerate(fates) if truth is not None}
    aims |= {("fn", number): item.bins for number, item in enumerate(missed)}
    found: dict[tuple[str, int], list[int]] = {}
    for at, (token, held) in enumerate(gather(scribe, given, names, append(missed, given.order, bool(elements)))):
        owner = collapse(held)
        target.text += bytes(byte.value for byte in held)
        kind = "coord" if is_slot(scribe, elements, at, token, owner) else "struct"
        kind = "desc" if any(byte.desc for byte in held) else kind
        if kind == "coord" and owner in aims:
            found.setdefault(owner, []).append(at)
        add(target, token, kind, owner[0])
    add(target, scribe.end, "eos", "closure")
    target.slots = [(owner[0], tuple(positions), aims[owner]) for owner, positions in found.items()]
    cells = zip(target.types, target.owners, strict=True)
    target.weights = [weigh(kind, owner, knobs, "dropped" in names) for kind, owner in cells]
    target.counts = {name: names.count(name) for name in ("matched", "fp", "dropped")}
    target.counts |= {"fn": len(missed), "cut": len(reading.elements) - len(elements)}
    return target


def settle(elements: Sequence[tuple], pairs: Mapping[int, int]) -> list[tuple[str, int | None]]:
    """What becomes of each element, and the ground truth that a matched one is."""
    fates: list[tuple[str, int | None]] = []
    for element in elements:
        valid = sum(fate != "dropped" for fate, _ in fates)
        if element[0] == "dropped":
            fates.append(("dropped", None))
        elif valid in pairs:
            fates.append(("matched", pairs[valid]))
        else:
            fates.append(("fp", None))
    return fates


def gather(scribe: Scribe, given: Given, names: Sequence[str], appended: list[Byte]) -> list[tuple[int, list[Byte]]]:
    """Tokens with their bytes: what the rollout wrote stays, but for the last kept token."""
    prefix, kept_ids = [Byte(value, "opening_injected") for value in b'{"objects": ['], list[int]()
    if not given.reading.invalid:
        prefix, kept_ids = read_prefix(scribe, given, names)
    groups: list[tuple[int, list[Byte]]] = []
    place = 0
    for token in kept_ids[:-1]:
        length = len(scribe.piece(token))
        groups.append((token, prefix[place : place + length]))
        place += length
    tail = prefix[place:] + appended
    place = 0
    for token in scribe.encode(bytes(byte.value for byte in tail).decode()):
        length = len(scribe.piece(token))
        groups.append((token, tail[place : place + length]))
        place += length
    assert place == len(tail)
    return groups


def is_slot(scribe: Scribe, elements: Sequence[tuple], at: int, token: int, owner: tuple[str, int]) -> bool:
    """Whether a token is a coordinate of a valid object of the prefix, or of a missed one."""
    if owner[0] == "fn":
        return token in scribe.bins
    return any(element[0] == "valid" and at in element[6] for element in elements)


def fit_reference(limit: int, most: int, write: Callable[[int], Target]) -> Target | None:
    """The target with the most elements that has at most `limit` tokens; None where even none is too many."""
    for keep in range(most, -1, -1):
        target = write(keep)
        if len(target.ids) <= limit:
            return target
    return None


def add(target: Target, token: int, kind: str, owner: str) -> None:
    target.ids.append(token)
    target.types.append(kind)
    target.owners.append(owner)


def weigh(kind: str, owner: str, knobs: Mapping[str, float], drops: bool) -> float:
    """The table of contexts, row by row."""
    if kind == "eos":
        return 1.0
    if kind == "coord" or owner in ("fp", "dropped", "opening"):
        return 0.0
    if kind == "desc":
        return knobs["rollout_fn_desc_weight"] if owner == "fn" else 0.0
    weight = {
        "matched": knobs["rollout_matched_prefix_struct_weight"],
        "fn": 1.0,
        "opening_injected": 1.0,
        "closure": 1.0,
    }[owner]
    scaled = drops and owner in ("matched", "fn", "closure")
    return weight * knobs["rollout_drop_invalid_struct_ce_multiplier"] if scaled else weight


def collapse(held: list[Byte]) -> tuple[str, int]:
    """Closure, then FP or dropped, then object over opening; of two objects the one before.

    Dropped goes before FP, which weighs as little, so that no dropped object is without a token of its own.
    """
    for owners in (["closure"], ["dropped"], ["fp"], ["matched", "fn"], ["opening", "opening_injected"]):
        for byte in held:
            if byte.owner in owners:
                return byte.owner, byte.number
    raise AssertionError("a token without bytes")


def append(missed: Sequence[CoordObject], order: str, after_object: bool) -> list[Byte]:
    """`, ` where an object stands before and one follows, the missed objects, the closure."""
    found: list[Byte] = []
    for number, item in enumerate(missed):
        if number or after_object:
            owner = number - 1 if number else 0  # a separator belongs to the object before it, but for the first
            found += [Byte(value, "fn", owner) for value in b", "]
        desc = [('"desc": "', False), (json.dumps(item.desc, ensure_ascii=False)[1:-1], True), ('"', False)]
        tokens = ", ".join(f"<|coord_{value}|>" for value in item.bins)
        geometry = [(f'"{item.kind}": [{tokens}]', False)]
        parts = [*desc, (", ", False), *geometry] if order == "desc_first" else [*geometry, (", ", False), *desc]
        for text, inside in [("{", False), *parts, ("}", False)]:
            found += [Byte(value, "fn", number, inside) for value in text.encode()]
    return found + [Byte(value, "closure") for value in b"]}"]


def read_prefix(scribe: Scribe, given: Given, fates: Sequence[str]) -> tuple[list[Byte], list[int]]:
    """The bytes up to the `}` of the last kept element (or the `[`), owned, and the ids of their tokens."""
    starts, text = [], b""
    for token in given.ids[: given.reading.length]:
        starts.append(len(text))
        text += scribe.piece(token)
    begins = [starts[element[-2][0]] + element[-1] for element in given.reading.elements[: len(fates)]]
    end = brace_end(text, begins[-1]) if begins else text.index(b"[") + 1
    found: list[Byte] = []
    for at in range(end):
        owner = sum(begin <= at for begin in begins) - 1
        found.append(Byte(text[at], fates[owner] if owner >= 0 else "opening", owner))
    for begin, fate in zip(begins, fates, strict=True):
        if fate != "dropped":
            for at in desc_range(text, begin):
                found[at] = replace(found[at], desc=True)
    kept = [token for token, start in zip(given.ids, starts, strict=False) if start < end]
    return found, kept


def string_end(text: bytes, start: int) -> int:
    at = start + 1
    while text[at : at + 1] != b'"':
        at += 2 if text[at : at + 1] == b"\\" else 1
    return at + 1


def brace_end(text: bytes, start: int) -> int:
    depth, at = 0, start
    while True:
        sign = text[at : at + 1]
        if sign == b'"':
            at = string_end(text, at)
            continue
        depth += {b"{": 1, b"}": -1}.get(sign, 0)
        at += 1
        if depth == 0:
            return at


def desc_range(text: bytes, start: int) -> range:
    """Where the value of a valid object's `desc` is written, without its quotes."""
    at, before, named = start + 1, "{", False
    while True:
        sign = text[at : at + 1]
        if sign == b'"':
            end = string_end(text, at)
            if before == ":" and named:
                return range(at + 1, end - 1)
            if before in ("{", ","):
                named = text[at:end] == b'"desc"'
            at, before = end, "string"
            continue
        if sign.strip(b" \t\r\n"):
            before = sign.decode("latin-1")
        if sign == b"[":
            at = text.index(b"]", at)
            before = "]"
        at += 1
