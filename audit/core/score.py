"""Counts and judges a core mutation run: in, mutants with a status; out, scores by module and the record of the tree.

`.audit/core-mutation.json` (contract core-mutation) is written for whole runs only, so a look at a part proves nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from audit.core.outcomes import CAUGHT, KILLED, Change, Mutant
from coordexp.spec import check, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BAR = 0.90
RECORD_FILE = "core-mutation.json"


@dataclass(frozen=True, slots=True)
class Score:
    """Mutants of one module (or of all: `total`) by what became of them; those timed out count as caught."""

    module: str
    generated: int
    killed: int
    timed_out: int

    @property
    def value(self) -> float:
        """Caught over generated; 1.0 where there is nothing to mutate."""
        return (self.killed + self.timed_out) / self.generated if self.generated else 1.0


@dataclass(frozen=True, slots=True)
class Survival:
    """A mutant that was not caught: what it changes, its status, and the listed reason (empty: unlisted)."""

    where: str
    before: str
    after: str
    status: str
    why: str


def score_modules(mutants: Iterable[Mutant]) -> list[Score]:
    """One score a module, by name, then the total."""
    by_module: dict[str, Counter[str]] = {}
    for mutant in mutants:
        by_module.setdefault(mutant.module, Counter())[mutant.status] += 1
    rows = sorted(by_module.items())
    return [*(_score(module, count) for module, count in rows), _score("total", sum((c for _, c in rows), Counter()))]


def list_survivals(mutants: Iterable[Mutant], changes: dict[str, Change], why: dict[Change, str]) -> list[Survival]:
    """Every mutant that was not caught, by function."""
    rows = []
    for mutant in mutants:
        if mutant.status not in CAUGHT:
            change = changes[mutant.name]
            rows.append(Survival(change.where, change.before, change.after, mutant.status, why.get(change, "")))
    return sorted(rows, key=lambda row: (row.where, row.before, row.after))


def write_record(path: Path, tree: str, scores: list[Score], survivals: list[Survival]) -> None:
    """Write what a whole run of `tree` came to."""
    rows = [{**asdict(score), "score": round(score.value, 4)} for score in scores]
    content = {"tree": tree, "bar": BAR, "modules": rows, "survivors": [asdict(row) for row in survivals]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(check("core-mutation", content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: Path, tree: str) -> dict[str, Any] | None:
    """The record of this tree; None when there is none. Raises `ContractViolation` for a bad file."""
    if not path.is_file():
        return None
    content: dict[str, Any] = check("core-mutation", read_json(path))
    return content if content["tree"] == tree else None


def summarise(path: Path, tree: str) -> dict[str, Any] | None:
    """What the report says of this tree's record; None when the core was not mutated in it."""
    content = read_record(path, tree)
    if content is None:
        return None
    total = content["modules"][-1]
    caught = total["killed"] + total["timed_out"]
    unexplained = sum(not row["why"] for row in content["survivors"])
    return {
        "score": total["score"], "bar": content["bar"], "generated": total["generated"], "caught": caught,
        "unexplained": unexplained,
    }  # fmt: skip


def _score(module: str, count: Counter[str]) -> Score:
    return Score(module, count.total(), count[KILLED], sum(count[status] for status in CAUGHT) - count[KILLED])
