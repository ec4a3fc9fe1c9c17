"""CoordJSON, the answer's language: render, scan, parse, transpile; and the parse of a rollout. Light: no torch.

Contract ids: TEXT-*, PARSE-*.
"""

from __future__ import annotations

from coordexp.coordjson.closure import find_closure
from coordexp.coordjson.expression import render_expression
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
from coordexp.coordjson.rollout import parse_rollout
from coordexp.coordjson.rollout_prefix import OPENING_OWNER, PrefixToken, keep_elements, own_prefix
from coordexp.coordjson.rollout_tally import ParseTally, describe_failure, tally_rollouts
from coordexp.coordjson.rollout_types import (
    DROP_REASONS,
    NO_CUT,
    Cut,
    DroppedObject,
    DropReason,
    ParsedObject,
    ParsedRollout,
)
from coordexp.coordjson.scan import scan_answer
from coordexp.coordjson.types import CoordJSONError, Fault, ScannedAnswer, ScannedObject, Span
from coordexp.coordjson.units import RolloutVocabulary

__all__ = [
    "CLOSURE",
    "DROP_REASONS",
    "FIELD_ORDERS",
    "NO_CUT",
    "OPENING",
    "OPENING_OWNER",
    "SEPARATOR",
    "CoordJSONError",
    "Cut",
    "DropReason",
    "DroppedObject",
    "Fault",
    "FieldOrder",
    "ParseTally",
    "ParsedObject",
    "ParsedRollout",
    "PrefixToken",
    "RolloutVocabulary",
    "ScannedAnswer",
    "ScannedObject",
    "Span",
    "describe_failure",
    "find_closure",
    "keep_elements",
    "own_prefix",
    "parse_answer",
    "parse_rollout",
    "render_answer",
    "render_expression",
    "render_object",
    "scan_answer",
    "tally_rollouts",
    "transpile",
]
