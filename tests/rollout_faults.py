"""Answers and every catalogued way to break one, for the tests of a rollout's parse.

A broken answer is text with marks: `SPLIT` ends a token, `UNKNOWN` is an id without a token, `byte(b)` one byte as a
token of its own. `encode` turns it into ids of a real tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from coordexp.coordjson import render_answer
from coordexp.encode.vocabulary import CONTROL_TOKENS
from tests.strategies import ANY_DESCS, FIELD_ORDERS, coord_objects

SPLIT, UNKNOWN = "\ue000", "\ue001"
UNKNOWN_ID = 152_700
_FIRST_BYTE = 0xE100
_MARKS = re.compile(f"([{SPLIT}{UNKNOWN}{chr(_FIRST_BYTE)}-{chr(_FIRST_BYTE + 255)}])")
_COORD = re.compile(r"<\|coord_\d+\|>")
_SIGNS = '{}[]":,'

Mutator = Callable[[st.DrawFn, str], str]


def byte(value: int) -> str:
    return chr(_FIRST_BYTE + value)


def as_bytes(text: str) -> str:
    return "".join(map(byte, text.encode()))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text with marks. Each stretch between marks is encoded on its own."""
    ids: list[int] = []
    for part in _MARKS.split(text):
        if part == UNKNOWN:
            ids.append(UNKNOWN_ID)
        elif _MARKS.fullmatch(part) and part != SPLIT:
            ids.append(single_byte(tokenizer, ord(part) - _FIRST_BYTE))
        elif part not in ("", SPLIT):
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def single_byte(tokenizer: PreTrainedTokenizerBase, value: int) -> int:
    """The id of the token that is one byte; a byte-level vocabulary spells it with one printable character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letter = chr(value) if value in printable else chr(256 + [v for v in range(256) if v not in printable].index(value))
    return int(tokenizer.convert_tokens_to_ids(letter))


def _position(draw: st.DrawFn, text: str) -> int:
    return draw(st.integers(0, len(text)))


def _insert(draw: st.DrawFn, text: str, what: str) -> str:
    at = _position(draw, text)
    return text[:at] + what + text[at:]


def _choose(draw: st.DrawFn, text: str, pattern: str) -> re.Match[str] | None:
    found = list(re.finditer(pattern, text))
    return draw(st.sampled_from(found)) if found else None


def _replace(draw: st.DrawFn, text: str, pattern: str, choices: list[str]) -> str:
    """One occurrence of the pattern becomes one of the choices; `{0}` there is what it was."""
    match = _choose(draw, text, pattern)
    if match is None:
        return text
    return text[: match.start()] + draw(st.sampled_from(choices)).replace("{0}", match[0]) + text[match.end() :]


def _replacer(pattern: str, *choices: str) -> Mutator:
    return lambda draw, text: _replace(draw, text, pattern, list(choices))


def _truncated(draw: st.DrawFn, text: str) -> str:
    return text[: _position(draw, text)]


def _split(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 12))):
        text = _insert(draw, text, SPLIT)
    return text


def _bytewise(draw: st.DrawFn, text: str) -> str:
    start = _position(draw, text)
    end = draw(st.integers(start, min(len(text), start + 30)))
    if _MARKS.search(text[start:end]):
        return text
    return text[:start] + as_bytes(text[start:end]) + text[end:]


def _whitespace(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 6))):
        match = _choose(draw, text, r"[{}\[\]:,]")
        at = 0 if match is None else draw(st.sampled_from(match.span()))
        text = text[:at] + draw(st.sampled_from([" ", "\n", "\t", "\r\n", "  ", "\u00a0", "\v"])) + text[at:]
    return text


def _control(draw: st.DrawFn, text: str) -> str:
    return _insert(draw, text, draw(st.sampled_from(CONTROL_TOKENS)))


def _sign(draw: st.DrawFn, text: str) -> str:
    return _insert(draw, text, draw(st.sampled_from(_SIGNS)))


_DESC_VALUE = r'(?<="desc": ")[^"]*'
_MEMBER = r'"desc": "[^"]*"(, )?|"(bbox_2d|poly)": \[[^\]]*\](, )?'
_LIST = r"\[<[^\]]*\]"
_TOKEN = _COORD.pattern
# Pattern of what is broken, and what takes its place.
_REPLACED: dict[str, tuple[str, list[str]]] = {
    "a sign is missing": (r'[{}\[\]":,]', [""]),
    "an object without its brace": (r"(?<=\])\}(?=[,\]])", [""]),
    "a further key": (
        r'(?<=\{)(?=")|, (?=")|(?=\}[,\]])',
        [', "score": 5', '"id": {"a": [1]}, ', '{0}"x": "}", '],
    ),
    "a key twice": (_MEMBER, ["{0}{0}", "{0}, {0}"]),
    "a key is missing": (_MEMBER, [""]),
    "an unknown geometry": (
        r"bbox_2d|poly",
        ["bbox", "polygon", "line", "poly_points", "bbox_3d", "polys", "BBOX", "box", "geometry", "point"],
    ),
    "another key": (
        r"desc|objects",
        ["label", "Desc", "object_1", "d\\u0065sc", "de\nsc", "bbox\\x", "bbox\nx"],
    ),
    "too few or too many coords": (rf"{_TOKEN}(, )?", ["", "{0}, {0}", "{0}{0}"]),
    "something for a coord": (
        _TOKEN,
        ["17", '"{0}"', "null", "-1", "<|coord_*|>", "1.5", "cat", "{", "}", "<|coord_5", "{}", '"', ""],
    ),
    "a spelled coord": (_TOKEN, [f"<|coord{SPLIT}_5|>", f"<{SPLIT}|coord_7|>", as_bytes("<|coord_5|>")]),
    "nested lists": (rf"{_TOKEN}, {_TOKEN}", ["[{0}]", "[[{0}]]", "[{0}", "{0}]", "({0})"]),
    "no list": (_LIST, ["5", '"{0}"', "{}", "null", "[]", "[ ]", "{0}{0}", "<|coord_5|>", "[,]", "[{0}]"]),
    "swapped corners": (r"(?<=\[)<\|coord_\d+\|>", ["<|coord_999|>", "<|coord_0|>"]),
    "a value for the desc": (
        r'(?<="desc": )"[^"]*"',
        ["5", "null", '["a"]', '{"a": "b"}', "'a'", '""', '" \\u3000"', '"\n"', "cat", '"a" "b"'],
    ),
    "escapes in a desc": (
        _DESC_VALUE,
        ["{0}\\n", "\\\\", "\\x", "{0}\\", "\\u00e9", "\\ud800", "\\ud83d\\ude00", '\\"', "\\u12", "{0}\\\\\\"],
    ),
    "signs in a desc": (_DESC_VALUE, ["{{{", "}}", "]}", "}, {", '\\"}', "[", "a{0}}", '{\\"desc\\": ']),
    "raw control characters in a desc": (_DESC_VALUE, ["{0}\n", "\x00", "a\x1fb", "\t"]),
    "coords in a desc": (
        _DESC_VALUE,
        ["<|coord_5|>", "{0}<|coord_5|>{0}", f"<|coord{SPLIT}_5|>", "\\<|coord_5|>"],
    ),
    "split or bad UTF-8 in a desc": (
        _DESC_VALUE,
        [
            as_bytes("é"),
            as_bytes("😀"),
            byte(0xC3),
            byte(0xFF) + "a",
            byte(0xE7) + byte(0xBA) + "<|coord_5|>",
            byte(0xED) + byte(0xA0) + byte(0x80),
            byte(0xC3) + SPLIT + "\\n",
            byte(0xC2) + byte(0xA0),
            UNKNOWN,
        ],
    ),
    "a bad separator": (r"\}, \{", ["}; {", "} {", "},, {", "}, 5, {", "}, [{", "}], {", '}, "a", {', "}{"]),
    "a trailing comma": (r"(?=[\]}])", [",", ", "]),
}
_BEFORE = ["Sure: ", "```json\n", "\ufeff", " \n", "[", "<think>", '"', '{"objects": []}']
_AFTER = [" ", "\n", "!", "}", "]", ", {", "```", ' "}" ', "{}"]
MUTATORS: dict[str, Mutator] = {
    **{name: _replacer(pattern, *choices) for name, (pattern, choices) in _REPLACED.items()},
    "cut anywhere": _truncated,
    "a sign too many": _sign,
    "text before": lambda draw, text: draw(st.sampled_from(_BEFORE)) + text,
    "text after": lambda draw, text: text + draw(st.sampled_from(_AFTER)),
    "several containers": lambda draw, text: text + draw(st.sampled_from(["", " ", ", "])) + text,
    "a control token": _control,
    "an id without a token": lambda draw, text: _insert(draw, text, UNKNOWN),
    "other whitespace": _whitespace,
    "other pieces": _split,
    "single bytes": _bytewise,
}

ANSWERS = st.builds(render_answer, st.lists(coord_objects(ANY_DESCS), max_size=3), FIELD_ORDERS)


@st.composite
def broken(draw: st.DrawFn, name: str, answers: st.SearchStrategy[str] = ANSWERS) -> str:
    """An answer broken in one way."""
    return MUTATORS[name](draw, draw(answers))


@st.composite
def much_broken(draw: st.DrawFn, answers: st.SearchStrategy[str] = ANSWERS) -> str:
    """An answer broken in up to four ways."""
    text = draw(answers)
    for name in draw(st.lists(st.sampled_from(sorted(MUTATORS)), max_size=4)):
        text = MUTATORS[name](draw, text)
    return text
