"""Records of runs on GPUs: in, `.audit/gpu-record.json` and `contracts/audit/gpu_records/*.json`; out, what passed.

A record is of the tree that it names, so it proves nothing about another; it says what was seen, when, on what device.
Contract: gpu-record. Contract ids: SPEC-021, SPEC-022.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.spec import ContractFileError, check, contracts_root, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FRESH = ".audit/gpu-record.json"
FOLDER = ("audit", "gpu_records")


class RecordError(Exception):
    """A record that cannot be accepted; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """One run of the gpu tier: `content` is as the contract describes it."""

    file: str
    content: dict[str, Any]

    @property
    def date(self) -> str:
        """When the run ended, UTC, ISO 8601."""
        return str(self.content["date"])

    @property
    def device(self) -> str:
        """What it ran on, for people: `2 x NVIDIA H100 80GB HBM3`, or the names one by one."""
        names = [str(device["name"]) for device in self.content["devices"]]
        alike = len(set(names)) == 1 and len(names) > 1
        return f"{len(names)} x {names[0]}" if alike else ", ".join(names)

    @property
    def where(self) -> str:
        """Device and day, as sentences of the report name a record."""
        return f"{self.device} on {self.date[:10]}"

    def outcome(self, function: str) -> tuple[str, str]:
        """Outcome of all cases of a test function in one word, and the reasons; empty where it was not part of it."""
        cases = [test for test in self.content["tests"] if test["node"].split("[", 1)[0] == function]
        reasons = "; ".join(dict.fromkeys(test["reason"] for test in cases if test["reason"]))
        outcomes = {test["outcome"] for test in cases}
        return next((word for word in ("failed", "skipped", "passed") if word in outcomes), ""), reasons


def load_records() -> tuple[GpuRecord, ...]:
    """The committed records, the newest first; none where the folder is absent. `ContractViolation` for a bad one."""
    folder = contracts_root().joinpath(*FOLDER)
    found = [GpuRecord(path.name, check("gpu-record", read_json(path))) for path in sorted(folder.glob("*.json"))]
    return tuple(sorted(found, key=lambda record: (record.date, record.file), reverse=True))


def passed_in(records: Iterable[GpuRecord], function: str) -> GpuRecord | None:
    """The newest record in which every case of a test function passed; None where no record holds it so."""
    return next((record for record in records if record.outcome(function)[0] == "passed"), None)


def read_fresh(root: Path) -> GpuRecord:
    """The record that the last run of the tier left. Raises `RecordError`, and `ContractViolation` for a bad one."""
    fresh = root / FRESH
    if not fresh.is_file():
        raise RecordError(f"{fresh}: no record; run tox -e gpu on a machine with an NVIDIA GPU first")
    try:
        return GpuRecord(FRESH, check("gpu-record", read_json(fresh)))
    except ContractFileError as error:
        raise RecordError(f"{error}; run tox -e gpu again") from error


def accept(root: Path) -> Path:
    """Copy the record of the last run to where it is committed; return that file. Raises what `read_fresh` raises."""
    record = read_fresh(root)
    content = record.content
    if not any(test["outcome"] == "passed" for test in content["tests"]):
        raise RecordError(
            f"{root / FRESH}: none of its {len(content['tests'])} tests passed, so it shows nothing to commit"
        )
    name = re.sub(r"[^a-z0-9]+", "-", record.device.lower()).strip("-")
    target = root.joinpath("contracts", *FOLDER, f"{content['date'][:10]}-{name}.json")
    if target.exists():
        raise RecordError(f"{target}: there is a record of this day and device; remove it if this one replaces it")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_record(target, content)
    return target


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record that fits its contract; whole or not at all."""
    part = path.with_name(path.name + ".partial")
    part.write_text(json.dumps(check("gpu-record", content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
