"""A file of records whose first line is out of order in; what the whole file is instead of JSON Lines out.

Only such files are looked at, so the records of a file in order cost nothing. Contract ids: DATA-095.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from coordexp.data.errors import DataError, Finding
from coordexp.data.file_forms import UTF8_BOM, FileWords, encoding_fault, foreign_file, foreign_text
from coordexp.data.pictures import COOK

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.data.file_forms import Foreign

# Enough for the keys at the top of a COCO file, and of most files for all of them.
_HEAD = 1 << 20
_WORDS = FileWords("the JSONL file of records", f"COCO's JSON, and cook that with `{COOK}`")
_COCO = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[\s*\{')
_RECORD = re.compile(rb'"objects"\s*:|"images"\s*:\s*\[\s*"')


def file_finding(path: Path) -> Finding | None:
    """The one problem of a file that is no JSONL, None where its lines are to be judged one by one.

    Raises `DataError` for a file that cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a JSONL file of records") from error
    body = head.removeprefix(UTF8_BOM)
    for look in (_foreign, encoding_fault, _annotations, _layout):
        found = look(body)
        if found is not None:
            break
    else:
        if body == head:
            return None
        found = "it begins with a byte order mark (UTF-8 with BOM)", "save it as UTF-8 without one"
    what, remedy = found
    return Finding("not_jsonl", "", what, f"{remedy[:1].upper()}{remedy[1:]}.")


def _foreign(body: bytes) -> Foreign | None:
    found = foreign_file(body, _WORDS) or foreign_text(body, _WORDS)
    return None if found is None else (f"it is {found[0]}, not JSONL records", found[1])


def _annotations(body: bytes) -> Foreign | None:
    if not body.lstrip().startswith(b"{") or _RECORD.search(body) or not _COCO.search(body):
        return None
    return "it holds COCO annotations, not JSONL records", f"cook them with `{COOK}`"


def _layout(body: bytes) -> Foreign | None:
    """JSON over several lines, or several values on what counts as one line."""
    text = body.decode("utf-8", errors="replace").lstrip()
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except json.JSONDecodeError as error:
        # The head may end within the value, in a text too; a fault before its end is one of the line.
        at_end = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        end = len(text) if at_end else 0
    except RecursionError:
        return None
    value, rest = text[:end].rstrip(), text[end:].lstrip(" \t")
    if "\n" in value or "\r" in value:
        if value.startswith("["):
            return "it is one JSON list over several lines", "write each record on a line of its own: `jq -c '.[]'`"
        return "it is pretty-printed JSON, and a record is one line", "write each record on one line: `jq -c .`"
    if rest.startswith("\r") and not rest.startswith("\r\n") and rest.strip():
        return "its lines end in CR alone, so all of it is one line", "write it with line ends of LF"
    return None
