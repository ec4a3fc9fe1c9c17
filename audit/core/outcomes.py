"""What became of each mutant: in, mutmut's folder; out, names, changed lines, statuses, and the tests that killed.

A mutant is known by its function and by the lines that it changes, so that edits elsewhere do not rename it.
"""

from __future__ import annotations

import ast
import difflib
import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.core.session import read_kills

if TYPE_CHECKING:
    from pathlib import Path

KILLED, SURVIVED, TIMED_OUT, UNTESTED, ERROR = "killed", "survived", "timed out", "untested", "error"
CAUGHT = (KILLED, TIMED_OUT)
_PENDING = (None, 2)
"""Exit codes of a mutant that is not judged yet: not run, interrupted."""
# 33 and 5: no test reaches the function. Signals: SIGPROF (the test's share of CPU time) and SIGXCPU (mutmut's).
_STATUSES = {0: SURVIVED, 5: UNTESTED, 33: UNTESTED, -27: TIMED_OUT, -24: TIMED_OUT}
_MARK = "__mutmut_"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One of mutmut's mutants; `status` is empty until it is judged, `test` is the one that killed it."""

    name: str
    file: str
    status: str
    test: str

    @property
    def module(self) -> str:
        """Dotted module that it changes."""
        return self.name.partition(_MARK)[0].rpartition(".")[0]

    @property
    def where(self) -> str:
        """`module:function`, or `module:Class.method`."""
        mangled = self.name.partition(_MARK)[0].rpartition(".")[2]
        function = mangled.removeprefix("x_") if mangled.startswith("x_") else mangled[2:].replace("ǁ", ".")
        return f"{self.module}:{function}"


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """What identifies a mutant across edits elsewhere: its function, the lines before, and the lines after."""

    where: str
    before: str
    after: str


def read_mutants(folder: Path) -> list[Mutant]:
    """Every mutant of mutmut's folder, judged or not, by file."""
    kills = {row["mutant"]: row["test"] for row in read_kills(folder)}
    found = []
    for meta in sorted(folder.rglob("*.py.meta")):
        file = meta.relative_to(folder).as_posix().removesuffix(".meta")
        codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        found += [Mutant(name, file, _status(name, code, kills), kills.get(name, "")) for name, code in codes.items()]
    return found


def count_judged(folder: Path, names: set[str]) -> int | None:
    """How many of the named mutants have a status; None while mutmut is writing one of its files."""
    try:
        return sum(bool(mutant.status) for mutant in read_mutants(folder) if mutant.name in names)
    except json.JSONDecodeError:
        return None


def read_changes(folder: Path, mutants: list[Mutant]) -> dict[str, Change]:
    """The changed lines of some mutants, by mutant name."""
    functions: dict[str, dict[str, str]] = {}
    changes = {}
    for mutant in mutants:
        if mutant.file not in functions:
            functions[mutant.file] = _function_sources((folder / mutant.file).read_text(encoding="utf-8"))
        name = mutant.name.rpartition(".")[2]
        original = name.partition(_MARK)[0] + _MARK + "orig"
        sources = functions[mutant.file]
        before, after = sources[original].replace(original, ""), sources[name].replace(name, "")
        changes[mutant.name] = Change(mutant.where, *_difference(before.splitlines(), after.splitlines()))
    return changes


def _status(name: str, code: int | None, kills: dict[str, str]) -> str:
    if code in _PENDING:
        return ""
    if code == 1:
        # mutmut takes any failure of the run for a kill; without a failing test it is none.
        return KILLED if name in kills else ERROR
    assert code is not None
    return _STATUSES.get(code, ERROR)


def _function_sources(text: str) -> dict[str, str]:
    """Source of every generated function of a mutated file, by name, without indentation and decorators."""
    lines = text.splitlines()
    found = {}
    for top in ast.parse(text).body:
        for node in [top, *(top.body if isinstance(top, ast.ClassDef) else [])]:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _MARK in node.name:
                found[node.name] = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return found


def _difference(before: list[str], after: list[str]) -> tuple[str, str]:
    removed: list[str] = []
    added: list[str] = []
    for tag, i, j, k, n in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            removed += before[i:j]
            added += after[k:n]
    return "\n".join(line.strip() for line in removed), "\n".join(line.strip() for line in added)
