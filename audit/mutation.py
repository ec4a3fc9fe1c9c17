"""Applies one mutant and runs its invariant's tests against it: in, an invariant and a mutant; out, a `MutationRecord`.

A module of the packages is replaced in memory by an import hook; any other file is changed in a copy of the checkout.
The checkout's own files are never touched. Contract ids: SPEC-010, SPEC-011.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from audit.execution import TestOrder, TestRun, copy_checkout, run_tests
from audit.mutation_records import KILLED, MutationRecord

if TYPE_CHECKING:
    from audit.warm import WarmServer
    from coordexp.spec import Invariant, Mutant

_HOUR = 3600.0
STARTUP_FOLDER = Path(__file__).resolve().parent / "startup"


class InvalidMutantError(Exception):
    """A mutant that cannot be applied; the text says why."""


def mutate(root: Path, mutant: Mutant) -> str:
    """Text of the mutated file; `InvalidMutantError` unless `find` occurs exactly once and the result compiles."""
    path = root / mutant.file
    if not path.is_file():
        raise InvalidMutantError(f"{mutant.file} does not exist")
    text = path.read_text(encoding="utf-8")
    count = text.count(mutant.find)
    if count != 1:
        raise InvalidMutantError(f"the text to find occurs {count} times in {mutant.file}, not once")
    if mutant.replace == mutant.find:
        raise InvalidMutantError("the replacement changes nothing")
    changed = text.replace(mutant.find, mutant.replace)
    if path.suffix == ".py":
        try:
            compile(changed, mutant.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise InvalidMutantError(f"the mutant is no Python: {error}") from error
    return changed


def hooked(root: Path, mutant: Mutant) -> bool:
    """Whether the mutant's file is a module of a package, replaced at import; others need a copy of the checkout.

    So do pytest plugins: pytest reads their files itself, to rewrite assertions.
    """
    path = root / mutant.file
    in_package = path.suffix == ".py" and (root / Path(mutant.file).parts[0] / "__init__.py").is_file()
    return in_package and path.is_file() and "\ndef pytest_" not in path.read_text(encoding="utf-8")


def run_unmutated(place: Path, invariant_id: str, timeout: float, server: WarmServer | None = None) -> TestRun:
    """Run the tests of an invariant as they are."""
    with tempfile.TemporaryDirectory(prefix="audit-baseline-") as scratch:
        return run_tests(TestOrder(place, invariant_id, timeout), Path(scratch), server)


def run_mutant(
    root: Path, invariant: Invariant, number: int, timeout: float, server: WarmServer | None = None
) -> MutationRecord:
    """Apply mutant `number` (from 1) of the invariant and say what its tests made of it.

    A kill in a warm process is believed, anything else is run again in a fresh one; a survivor also in a copy.
    """
    mutant = invariant.mutants[number - 1]
    started = time.monotonic()

    def record(status: str, test: str = "", detail: str = "") -> MutationRecord:
        seconds = round(time.monotonic() - started, 2)
        return MutationRecord(invariant.id, number, mutant.file, mutant.why, status, test, detail[:300], seconds)

    try:
        source = mutate(root, mutant)
    except InvalidMutantError as error:
        return record("invalid", detail=str(error))
    with tempfile.TemporaryDirectory(prefix="audit-mutant-") as scratch:
        folder = Path(scratch)
        if not hooked(root, mutant):
            place = copy_checkout(root, folder / "tree")
            replace_source(place / mutant.file, source)
            run = run_tests(TestOrder(place, invariant.id, timeout), folder / "copied")
            return record(*_judge(run, ["loaded"], timeout))
        verdict = ("", "", "")
        for process in dict.fromkeys((server, None)):
            loads = folder / ("fresh" if process is None else "warm")
            environment = _hook_environment(root, mutant, source, loads)
            run = run_tests(TestOrder(root, invariant.id, timeout, environment), loads.with_suffix(".run"), process)
            lines = loads.read_text(encoding="utf-8").splitlines() if loads.is_file() else []
            verdict = _judge(run, lines, timeout)
            if verdict[0] == KILLED:
                break
        if verdict[0] == "survived":
            verdict = _verdict_in_copy(root, invariant, mutant, source, timeout) or verdict
        return record(*verdict)


def _verdict_in_copy(
    root: Path, invariant: Invariant, mutant: Mutant, source: str, timeout: float
) -> tuple[str, str, str] | None:
    """What the tests say in a changed copy of the checkout, or None where they fail in an unchanged one.

    Tests may start processes with an environment of their own, which the import hook does not reach.
    """
    with tempfile.TemporaryDirectory(prefix="audit-copy-") as scratch:
        place = copy_checkout(root, Path(scratch) / "tree")
        if run_unmutated(place, invariant.id, timeout).status != 0:
            return None
        replace_source(place / mutant.file, source)
        run = run_tests(TestOrder(place, invariant.id, timeout), Path(scratch) / "copied")
    return _judge(run, ["loaded"], timeout)


def replace_source(path: Path, source: str) -> None:
    """Write the mutant; its time differs by more than the second that bytecode caches compare."""
    later = path.stat().st_mtime + _HOUR
    path.write_text(source, encoding="utf-8")
    os.utime(path, (later, later))


def _judge(run: TestRun, loads: list[str], timeout: float) -> tuple[str, str, str]:
    if loads and "loaded" not in loads:
        return "invalid", "", f"the mutant cannot be imported: {loads[0].removeprefix('failed: ')}"
    if run.status is None:
        return "timed out", run.failed_test, f"no end after {timeout:.0f} s"
    if run.status == 1 and run.failed_test:
        return KILLED, run.failed_test, run.detail
    if run.status == 0:
        return "survived", "", "" if loads else "its tests never import the mutated file"
    return "invalid", "", f"pytest exit status {run.status}: {run.detail}"


def _hook_environment(root: Path, mutant: Mutant, source: str, loads: Path) -> dict[str, str]:
    parts = list(Path(mutant.file).with_suffix("").parts)
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    content = {"module": module, "path": str((root / mutant.file).resolve()), "source": source, "loads": str(loads)}
    file = loads.with_suffix(".json")
    file.write_text(json.dumps(content), encoding="utf-8")
    rest = os.environ.get("PYTHONPATH", "")
    return {"AUDIT_MUTANT": str(file), "PYTHONPATH": os.pathsep.join(filter(None, (str(STARTUP_FOLDER), rest)))}
