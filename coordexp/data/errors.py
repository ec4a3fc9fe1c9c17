"""How bad data is reported: one line a problem, with file:line, JSON path, what is allowed and what to do.

Contract ids: DATA-003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class DataError(ValueError):
    """Data that cannot be used; the message says what, where, what is allowed and what to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule inside one record: `rule` is its id, `pointer` a JSON path such as `objects[3].bbox_2d[2]`."""

    rule: str
    pointer: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class RecordProblem:
    """A finding and the `file:line` it was made at."""

    where: str
    finding: Finding

    @property
    def rule(self) -> str:
        """Id of the broken rule."""
        return self.finding.rule

    def __str__(self) -> str:
        finding = self.finding
        at = f"{self.where}: {finding.pointer}: " if finding.pointer else f"{self.where}: "
        return f"{at}{finding.message}. {finding.remedy} [{finding.rule}]"


SHOWN = 20
"""Problems that a message spells out; a file that is wrong throughout would fill the screen."""


class RecordError(DataError):
    """Records that break their contract; `problems` holds each of them, the message a line for each of the first."""

    def __init__(self, problems: Sequence[RecordProblem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            places = len({problem.where for problem in self.problems})
            lines.append(
                f"… and {len(self.problems) - SHOWN} more: {len(self.problems)} problems in {places} records; "
                "`python -m coordexp.entrypoints.check_data --config CONFIG` lists them all"
            )
        super().__init__("\n".join(lines))
