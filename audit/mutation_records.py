"""Reads and writes what mutation runs found in one tree: `.audit/mutants.json` (contract mutation-records)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from coordexp.spec import check, read_json

if TYPE_CHECKING:
    from pathlib import Path

KILLED = "killed"


@dataclass(frozen=True, slots=True)
class MutationRecord:
    """What became of one mutant; see the contract for the fields and the statuses."""

    invariant: str
    number: int
    file: str
    why: str
    status: str
    test: str
    detail: str
    seconds: float

    @property
    def key(self) -> tuple[str, int]:
        """Invariant id and place in its declaration."""
        return self.invariant, self.number


def read_records(path: Path, tree: str) -> dict[tuple[str, int], MutationRecord]:
    """Records of this tree, by key; empty when the file is absent or belongs to another tree."""
    if not path.is_file():
        return {}
    content = check("mutation-records", read_json(path))
    if content["tree"] != tree:
        return {}
    records = [MutationRecord(**row) for row in content["records"]]
    return {record.key: record for record in records}


def write_records(path: Path, tree: str, records: list[MutationRecord]) -> None:
    """Write the records of a tree, ordered by key."""
    rows = [asdict(record) for record in sorted(records, key=lambda record: record.key)]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(check("mutation-records", {"tree": tree, "records": rows}), indent=1) + "\n"
    # Whole or not at all: a run may be interrupted here.
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
