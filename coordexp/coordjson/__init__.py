"""CoordJSON, the answer's language: render, scan, parse, transpile. Light: no torch. Contract ids: TEXT-*."""

from __future__ import annotations

from coordexp.coordjson.parse import parse_answer, transpile
from coordexp.coordjson.render import (
    CLOSURE,
    FIELD_ORDERS,
    OPENING,
    SEPARATOR,
    FieldOrder,
    render_answer,
    render_object,
)
from coordexp.coordjson.scan import scan_answer
from coordexp.coordjson.types import CoordJSONError, Fault, ScannedAnswer, ScannedObject, Span

__all__ = [
    "CLOSURE",
    "FIELD_ORDERS",
    "OPENING",
    "SEPARATOR",
    "CoordJSONError",
    "Fault",
    "FieldOrder",
    "ScannedAnswer",
    "ScannedObject",
    "Span",
    "parse_answer",
    "render_answer",
    "render_object",
    "scan_answer",
    "transpile",
]
