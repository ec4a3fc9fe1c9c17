"""An annotation file as text: what it is when it is no JSON, and where its JSON breaks.

Bytes as found on disk enter. Out: UTF-8 without BOM for a decoder, or `DataError` that names what the file is (a zip,
an XML, UTF-16, …), or line, column and byte of the first fault. Contract ids: DATA-040, DATA-041.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from coordexp.data.errors import DataError
from coordexp.data.file_forms import NOT_UTF8, UTF8_BOM, FileWords, encoding_fault, foreign_file, foreign_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from coordexp.data.file_forms import Foreign

T = TypeVar("T")
_WORDS_OF_FILE = FileWords("the annotation file", "COCO's JSON")
_BINARY_HEAD = 4096
_TOKEN = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\.)*"|[-+]?\d[\w.+-]*|[-+]?[A-Za-z_]\w*', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_WORDS = {b"true", b"false", b"null"}
_CONSTANTS = {b"nan": "NaN", b"inf": "Infinity", b"infinity": "Infinity"}
_PYTHON_WORDS = {b"None": "null", b"True": "true", b"False": "false"}


@dataclass(frozen=True, slots=True)
class JsonText:
    """A file's text in UTF-8 without BOM; `source` names the file, `wanted` says what belongs into it."""

    content: bytes
    source: str
    wanted: str
    skipped: int = 0
    """Bytes of the file before `content`: those of a BOM."""

    def place(self, offset: int) -> str:
        """Line, column (in characters, from 1) and byte (of the file, from 0) of an offset in `content`."""
        start = self.content.rfind(b"\n", 0, offset) + 1
        line = self.content.count(b"\n", 0, offset) + 1
        column = len(self.content[start:offset].decode("utf-8", errors="replace")) + 1
        return f"line {line}, column {column} (byte {offset + self.skipped})"


def read_bytes(path: Path, wanted: str) -> bytes:
    """A file's bytes; raises `DataError` when there is none to read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name {wanted}") from error


def check_text(content: bytes, source: str, wanted: str) -> JsonText:
    """The text of a JSON file, or `DataError` that says what the file is instead."""
    body = content.removeprefix(UTF8_BOM)
    text = JsonText(body, source, wanted, len(content) - len(body))
    _refuse_foreign(text, foreign_file(body, _WORDS_OF_FILE))
    if (encoding := encoding_fault(body)) is not None:
        raise DataError(f"{source}: {encoding[0]}: {encoding[1]}")
    if not body.strip():
        what = "is empty" if not body else "holds nothing but blanks"
        raise DataError(f"{source}: the file {what}; it is to hold {wanted}")
    try:
        if not body.isascii():
            body.decode("utf-8")
    except UnicodeDecodeError as error:
        if b"\0" in body[:_BINARY_HEAD]:
            raise DataError(
                f"{source}: it is binary data and no text, not {wanted}. Name the annotation file"
            ) from error
        raise DataError(
            f"{source}: {text.place(error.start)} holds 0x{body[error.start]:02x}, {NOT_UTF8}. Save the file as UTF-8"
        ) from error
    _refuse_foreign(text, foreign_text(body, _WORDS_OF_FILE))
    return text


def decode_typed(
    text: JsonText, kind: type[T], is_sound: Callable[[T], bool], explain: Callable[[Any, str, str], DataError]
) -> T:
    """The value of a text as `kind`, for which `is_sound` holds. Raises `DataError` for what is no JSON, and otherwise
    what `explain` makes of the untyped value, the source and the decoder's own words.
    """
    reported = "a value is out of its range"
    try:
        value = msgspec.json.decode(text.content, type=kind)
        if is_sound(value):
            return value
    except msgspec.ValidationError as error:
        reported = str(error)
    except (msgspec.DecodeError, RecursionError) as error:
        raise syntax_error(text, str(error)) from error
    # The typed decoder only gives the verdict; the words come from the rules, on the untyped payload.
    try:
        payload = msgspec.json.decode(text.content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise syntax_error(text, str(error)) from error
    raise explain(payload, text.source, reported)


def _refuse_foreign(text: JsonText, found: Foreign | None) -> None:
    if found is not None:
        raise DataError(f"{text.source}: it is {found[0]}, not {text.wanted}. {found[1]}")


def syntax_error(text: JsonText, reported: str) -> DataError:
    """Why `text` is not one strict JSON value, with line, column and byte; `reported` is what the decoder said."""
    faults = [fault for fault in (next(_token_faults(text), None), _parser_fault(text)) if fault is not None]
    if faults:
        offset, message = min(faults)
        return DataError(f"{text.source}: {text.place(offset)}: {message}")
    byte = re.search(r"\(byte (\d+)\)", reported)
    at = f"{text.place(int(byte[1]))}: " if byte else ""
    return DataError(f"{text.source}: {at}not strict JSON: {reported}. Write it with a JSON library")


def _token_faults(text: JsonText) -> Iterator[tuple[int, str]]:
    """Offsets of what Python's own parser lets through (NaN, halves of surrogate pairs) or reports without its name."""
    for match in _TOKEN.finditer(text.content):
        token = match[0]
        if token.startswith(b'"'):
            half = _lone_surrogate(token) if b"\\u" in token else None
            if half is not None:
                message = f"{token[half : half + 6].decode()} is half of a surrogate pair, which is no character"
                yield match.start() + half, f"{message}. Write the character itself, or remove it"
            continue
        word = token.lstrip(b"+-")
        if _is_too_large(token):
            yield match.start(), f"{token[:20].decode()} is larger than any number here can be. Correct or remove it"
        constant = _CONSTANTS.get(word.lower())
        if constant is not None:
            shown = token.decode()
            yield match.start(), f"{shown} is not a number in JSON. Write a number or null, or remove the entry"
        elif token in _PYTHON_WORDS:
            yield (
                match.start(),
                f"{token.decode()} is Python, in JSON it is {_PYTHON_WORDS[token]}. Write it with json.dump",
            )
        elif not word[:1].isdigit() and token not in _WORDS:
            return


def _is_too_large(token: bytes) -> bool:
    try:
        return token[-1:].isdigit() and math.isinf(float(token))
    except ValueError:
        return False


def _lone_surrogate(token: bytes) -> int | None:
    """Offset in a string's token of a \\u escape that is half of a pair; None when there is none."""
    pending: int | None = None
    end = 0
    for match in _ESCAPE.finditer(token):
        code = int(match[1], 16) if match[1] else 0
        follows = pending is not None and match.start() == end
        if 0xDC00 <= code <= 0xDFFF and follows:
            pending = None
        elif pending is not None:
            return pending
        elif 0xDC00 <= code <= 0xDFFF:
            return match.start()
        elif 0xD800 <= code <= 0xDBFF:
            pending = match.start()
        end = match.end()
    return pending


def _parser_fault(text: JsonText) -> tuple[int, str] | None:
    """Offset and words of the first place where Python's parser stops."""
    shown = text.content.decode("utf-8")
    try:
        json.loads(shown)
    except json.JSONDecodeError as error:
        return len(shown[: error.pos].encode("utf-8")), _parser_words(shown, error)
    except RecursionError:
        return 0, "brackets are nested too deep for any annotation file. Write it as COCO does"
    except ValueError as error:
        return 0, f"not strict JSON: {error}. Write it with a JSON library"
    return None


def _parser_words(shown: str, error: json.JSONDecodeError) -> str:
    rest = shown[error.pos :].strip()
    before = shown[: error.pos].rstrip()
    if error.msg == "Extra data" and rest[0] == "\0":
        return "zero bytes follow the end of the JSON value, as a copy leaves them that did not finish. Copy it again"
    if error.msg == "Extra data":
        begins = rest[0] in '{["' and before.count("\n") == 0
        lines = "a second JSON value begins here; one a line is JSON Lines. " if begins else ""
        cooked = '"objects"' in before[:2000] and '"annotations"' not in before[:2000]
        advice = (
            "Records that are cooked already are trained on as they are" if cooked else "The file is one JSON value"
        )
        return f"{lines or 'text follows the end of the JSON value. '}{advice}"
    if not rest or error.msg.startswith("Unterminated string"):
        return "the file ends in the middle, so it was cut short. Copy or download it once more"
    if before.endswith(",") and rest[0] in "]}":
        return f"a comma before {rest[0]!r} is not JSON. Remove it"
    if rest[0] == "'":
        return "texts are written in double quotes in JSON. Write the file with json.dump"
    return f"not JSON: {error.msg}, got {rest[:20]!r}. Write it with a JSON library"
