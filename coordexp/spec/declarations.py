"""Reads what the contracts declare besides schemas: invariants, requirements, case files and grammars.

Each is checked on reading: a file passes its meta-schema (contracts/meta/) and ids are unique. SPEC-004..006.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from coordexp.spec.documents import read_json, read_yaml
from coordexp.spec.root import contract_path, contracts_root
from coordexp.spec.schemas import violations
from coordexp.spec.types import Case, CaseFile, ContractFileError, Invariant, Mutant, Requirement

if TYPE_CHECKING:
    from pathlib import Path


def load_invariants() -> tuple[Invariant, ...]:
    """Every invariant of `contracts/invariants/*.yaml`, by id; a bad file or a repeated id is a `ContractFileError`."""
    folder = contracts_root() / "invariants"
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ContractFileError(f"{folder}: holds no invariant files")
    found: dict[str, Invariant] = {}
    titles: dict[str, str] = {}
    for path in paths:
        for invariant in _read_invariant_file(path):
            if invariant.id in found:
                first = found[invariant.id].path
                raise ContractFileError(f"{path}:{invariant.line}: id {invariant.id} is already in {first}")
            if invariant.title in titles:
                raise ContractFileError(f"{path}:{invariant.line}: title is already that of {titles[invariant.title]}")
            found[invariant.id], titles[invariant.title] = invariant, invariant.id
    return tuple(found[key] for key in sorted(found))


def load_requirements() -> tuple[Requirement, ...]:
    """The requirements in their first order. Raises `ContractFileError` for a bad row or a repeated id."""
    path = contract_path("requirements/requirements.yaml")
    rows = _fits("requirement-rows", read_yaml(path), path)
    found: dict[str, Requirement] = {}
    for row in rows:
        if row["id"] in found:
            raise ContractFileError(f"{path}: requirement {row['id']} is there twice")
        found[row["id"]] = Requirement(id=row["id"], section=row["section"], text=row["text"])
    return tuple(found.values())


def load_cases(path: Path) -> CaseFile:
    """The cases of a file `fixtures/<area>/<topic>.json`; one unlike `case-file` is a `ContractFileError`."""
    group = _fits("case-file", read_json(path), path)
    descriptions = [case["description"] for case in group["cases"]]
    for description in descriptions:
        if descriptions.count(description) > 1:
            raise ContractFileError(f"{path}: two cases are described {description!r}")
    cases = tuple(
        Case(
            description=case["description"],
            input=case["input"],
            valid=case.get("valid"),
            expect=case.get("expect"),
            has_expect="expect" in case,
            comment=case.get("comment", ""),
        )
        for case in group["cases"]
    )
    return CaseFile(path=path, description=group["description"], invariants=tuple(group["invariants"]), cases=cases)


def read_grammar(name: str) -> str:
    """Text of a grammar of `contracts/`, given as `<folder>/<file>`, or as a bare name of a `coordjson/*.lark` file."""
    relative = name if "/" in name else f"coordjson/{name.removesuffix('.lark')}.lark"
    return contract_path(relative).read_text(encoding="utf-8")


def _fits(schema_id: str, content: Any, path: Path) -> Any:
    problems = violations(schema_id, content)
    if problems:
        listed = "; ".join(f"{problem.dotted or '(the whole)'}: {problem.message}" for problem in problems[:5])
        raise ContractFileError(f"{path}: {listed}")
    return content


def _read_invariant_file(path: Path) -> list[Invariant]:
    content = _fits("invariant-file", read_yaml(path), path)
    if content["area"] != path.stem:
        raise ContractFileError(f"{path}: area is {content['area']!r}, the file's name says {path.stem!r}")
    text = path.read_text(encoding="utf-8")
    return [_invariant(row, path, _line_of(text, row["id"])) for row in content["invariants"]]


def _line_of(text: str, invariant_id: str) -> int:
    match = re.search(rf"\bid:\s*[\"']?{re.escape(invariant_id)}\b", text)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _invariant(row: dict[str, Any], path: Path, line: int) -> Invariant:
    return Invariant(
        id=row["id"],
        area=path.stem,
        title=row["title"],
        severity=row["severity"],
        statement=row["statement"],
        requirements=tuple(row["requirements"]),
        evidence=tuple(row["evidence"]),
        tier=row["tier"],
        mutants=tuple(Mutant(**mutant) for mutant in row["mutants"]),
        path=path,
        line=line,
    )
