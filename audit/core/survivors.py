"""The survivors that are known and explained: in, contracts/audit/core-survivors.yaml; out, `Survivor`s by change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.core.outcomes import Change
from coordexp.spec import check, contracts_root, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

LIST_FILE = "audit/core-survivors.yaml"


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test notices, why that is right, and how many mutants make it (lines may repeat)."""

    change: Change
    why: str
    times: int


def load_survivors() -> tuple[Survivor, ...]:
    """The listed survivors; none when the file is absent. Raises `ContractViolation` for a bad file."""
    path = contracts_root() / LIST_FILE
    if not path.is_file():
        return ()
    rows = check("core-survivors", read_yaml(path))["survivors"]
    return tuple(
        Survivor(
            Change(group["where"], row["before"], row["after"]),
            row["why"],
            row.get("times", 1),
        )
        for group in rows
        for row in group["changes"]
    )


def unlisted(found: Iterable[Change], listed: Iterable[Survivor]) -> list[Change]:
    """Changes that survive without a reason."""
    return sorted((Counter(found) - _counts(listed)).elements())


def stale(found: Iterable[Change], listed: Iterable[Survivor], modules: Iterable[str]) -> list[Change]:
    """Listed changes of these modules that are killed now, or that no mutant makes any more."""
    judged = set(modules)
    gone = _counts(listed) - Counter(found)
    return sorted(change for change in gone if change.where.partition(":")[0] in judged)


def reasons(listed: Iterable[Survivor]) -> dict[Change, str]:
    """Why, by change."""
    return {survivor.change: survivor.why for survivor in listed}


def _counts(listed: Iterable[Survivor]) -> Counter[Change]:
    total: Counter[Change] = Counter()
    for survivor in listed:
        total[survivor.change] += survivor.times
    return total
