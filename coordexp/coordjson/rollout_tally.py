"""Parses in, what was sought, found and skipped out: in numbers by reason, with examples, in words.

Contract id: PARSE-009.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.coordjson.rollout_types import DROP_REASONS, DroppedObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordexp.coordjson.rollout_types import DropReason, Failure, ParsedRollout

EXAMPLES_KEPT = 3
_IN_WORDS: dict[str, str] = {
    "invalid_rollout": 'the answer does not begin with {{"objects": [',
    "malformed_tail": "{count} objects are followed by neither a comma and an object nor ]",
    "truncated": "the answer ends before its last }}, after {count} complete objects",
    "trailing_comma": "a comma stands before the ] of the array",
    "trailing_text": "the ] of the array is followed by more than }}",
}


@dataclass(frozen=True, slots=True)
class ParseTally:
    """Sums over answers. `sought` = `found` + all of `dropped`: every complete object is one or the other.

    `dropped` holds every reason, zeros included; `failures` count why answers are not strictly well-formed, one each.
    `examples` show the offending tokens of the first objects dropped for a reason, at most `EXAMPLES_KEPT`.
    """

    answers: int
    strict: int
    invalid_rollouts: int
    truncated: int
    malformed_tails: int
    sought: int
    found: int
    dropped: Mapping[DropReason, int]
    failures: Mapping[Failure, int]
    examples: Mapping[DropReason, tuple[str, ...]]


def describe_failure(parsed: ParsedRollout) -> str:
    """Why the answer is not strictly well-formed, in words; raises `ValueError` for one that is."""
    if parsed.failure is None:
        raise ValueError("the answer is strictly well-formed: nothing failed")
    if parsed.failure in _IN_WORDS:
        return _IN_WORDS[parsed.failure].format(count=len(parsed.elements))
    number, drop = next(
        (number, element)
        for number, element in enumerate(parsed.elements, 1)
        if isinstance(element, DroppedObject) and element.reason == parsed.failure
    )
    where = f"tokens {drop.offending[0]}..{drop.offending[1] - 1}"
    return f"object {number} of {len(parsed.elements)} is dropped: {drop.reason} at {where}, {drop.excerpt!r}"


def tally_rollouts(rollouts: Iterable[ParsedRollout]) -> ParseTally:
    """The sums over some parses, in the order given."""
    parses = list(rollouts)
    drops = [drop for parsed in parses for drop in parsed.dropped]
    dropped = Counter(drop.reason for drop in drops)
    failures = Counter(parsed.failure for parsed in parses if parsed.failure is not None)
    examples = {
        reason: tuple([drop.excerpt for drop in drops if drop.reason == reason][:EXAMPLES_KEPT]) for reason in dropped
    }
    return ParseTally(
        answers=len(parses),
        strict=sum(parsed.strict for parsed in parses),
        invalid_rollouts=sum(parsed.invalid_rollout for parsed in parses),
        truncated=sum(parsed.truncated for parsed in parses),
        malformed_tails=sum(parsed.malformed_tail for parsed in parses),
        sought=sum(len(parsed.elements) for parsed in parses),
        found=sum(len(parsed.objects) for parsed in parses),
        dropped={reason: dropped[reason] for reason in DROP_REASONS},
        failures=dict(sorted(failures.items())),
        examples=examples,
    )
