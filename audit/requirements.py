"""Derives the status of every requirement: in, executed states of invariants and committed remarks; out, the matrix.

`done` is only said when executed tests passed or a named document or finding exists; for invariants of the gpu tier a
committed record of a GPU stands for tests executed here. Contract ids: SPEC-010, SPEC-023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from coordexp.spec import Invariant, Requirement, check, contracts_root, read_yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

Status = Literal["done", "partly", "not yet"]


@dataclass(frozen=True, slots=True)
class Remark:
    """What status.yaml says about one requirement."""

    kind: str
    note: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A requirement with its status, the reason for it, and what defends it."""

    requirement: Requirement
    status: Status
    reason: str
    invariants: tuple[str, ...]
    remark: Remark | None = None


def load_remarks() -> dict[str, Remark]:
    """Remarks of `contracts/requirements/status.yaml`; none when the file is absent."""
    path = contracts_root() / "requirements" / "status.yaml"
    if not path.is_file():
        return {}
    content = check("requirement-status", read_yaml(path) or {})
    return {key: Remark(**row) for key, row in content.items()}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the statuses are derived from: the executed state of each invariant, the remarks, what exists.

    `recorded` says of invariants of the gpu tier where a committed record shows all of their tests passed."""

    invariants: tuple[Invariant, ...]
    states: Mapping[str, str]
    remarks: Mapping[str, Remark]
    findings: Collection[str]
    root: Path
    recorded: Mapping[str, str] = field(default_factory=dict)


def build_matrix(requirements: tuple[Requirement, ...], evidence: Evidence) -> tuple[Row, ...]:
    """One row a requirement, in their order."""
    return tuple(_row(requirement, evidence) for requirement in requirements)


def unknown_requirements(requirements: tuple[Requirement, ...], evidence: Evidence) -> list[str]:
    """Texts for ids that invariants or remarks name and that no requirement has."""
    known = {requirement.id for requirement in requirements}
    named = [(invariant.id, key) for invariant in evidence.invariants for key in invariant.requirements]
    named += [("requirements/status.yaml", key) for key in evidence.remarks]
    return [f"{source} names requirement {key}, which does not exist" for source, key in named if key not in known]


def _row(requirement: Requirement, evidence: Evidence) -> Row:
    listing = tuple(invariant.id for invariant in evidence.invariants if requirement.id in invariant.requirements)
    remark = evidence.remarks.get(requirement.id)
    status, reason = _derive(listing, evidence, remark)
    return Row(requirement, status, reason, listing, remark)


def _derive(listing: tuple[str, ...], evidence: Evidence, remark: Remark | None) -> tuple[Status, str]:
    defended = {key for key in listing if evidence.states[key] == "proved" or key in evidence.recorded}
    proved = [key for key in listing if key in defended]
    unproved = [f"{key} is {evidence.states[key]}" for key in listing if key not in defended]
    if remark is not None and remark.kind == "never-run" and (unproved or not listing):
        return "not yet", remark.note
    if remark is not None and remark.kind == "deferred":
        return "not yet", remark.note
    if remark is not None and remark.kind in ("document", "finding") and not _exists(remark, evidence):
        return "not yet", f"{remark.kind} {remark.where} does not exist"
    documented = remark is not None and remark.kind in ("document", "finding")
    if not proved and not documented:
        return "not yet", "; ".join(unproved) or (remark.note if remark else "no invariant lists it")
    if remark is not None and remark.kind == "partly":
        return "partly", remark.note
    if unproved:
        return "partly", "; ".join(unproved)
    seen = "; ".join(evidence.recorded[key] for key in proved if evidence.states[key] != "proved")
    return "done", remark.note if documented and remark is not None else seen


def _exists(remark: Remark, evidence: Evidence) -> bool:
    if remark.kind == "finding":
        return remark.where in evidence.findings
    target = (evidence.root / remark.where).resolve()
    return target.is_relative_to(evidence.root.resolve()) and target.exists()
