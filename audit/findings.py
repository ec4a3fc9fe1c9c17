"""Reads contracts/audit/findings.yaml and finds the lines that its evidence points at; out, `Finding`s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.symbols import UnknownSymbolError, find_symbol
from coordexp.spec import check, contracts_root, read_yaml

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A risk, its evidence as `file:line`, the command that shows it; `missing` is evidence that is not there."""

    id: str
    severity: str
    status: str
    title: str
    explanation: str
    evidence: tuple[str, ...]
    missing: tuple[str, ...]
    verify: str
    requirements: tuple[str, ...]


def load_findings(root: Path) -> tuple[Finding, ...]:
    """The findings, worst first; none when the file is absent. Raises `ContractViolation` for a bad file."""
    path = contracts_root() / "audit" / "findings.yaml"
    if not path.is_file():
        return ()
    rows = check("audit-findings", read_yaml(path))["findings"]
    return tuple(sorted((_finding(root, row) for row in rows), key=lambda finding: (finding.severity, finding.id)))


def _finding(root: Path, row: dict[str, object]) -> Finding:
    places: list[str] = []
    missing: list[str] = []
    evidence = row["evidence"]
    assert isinstance(evidence, list)
    for item in evidence:
        try:
            places.append(_locate(root, item))
        except (UnknownSymbolError, OSError) as error:
            missing.append(str(error))
    requirements = row["requirements"]
    assert isinstance(requirements, list)
    texts = {key: str(row[key]) for key in ("id", "severity", "status", "title", "explanation", "verify")}
    return Finding(**texts, evidence=tuple(places), missing=tuple(missing), requirements=tuple(requirements))


def _locate(root: Path, item: dict[str, str]) -> str:
    if "symbol" in item:
        return find_symbol(root, item["symbol"]).where
    lines = (root / item["file"]).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if item["text"] in line:
            return f"{item['file']}:{number}"
    raise UnknownSymbolError(f"{item['file']}: no line holds {item['text']!r}")
