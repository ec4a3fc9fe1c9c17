"""Applies one mutant and runs its invariant's tests against it: in, an invariant and a mutant; out, a `MutationRecord`.

A module of the packages is replaced in memory by an import hook; any other file is changed in a copy of the checkout.
The checkout's own files are never touched. Contract ids: SPEC-010, SPEC-011.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.inventory import files_for
from audit.mutation_records import MutationRecord
from audit.suite import read_suite_command
from audit.tree import listed_files

if TYPE_CHECKING:
    from coordexp.spec import Invariant, Mutant

STARTUP_FOLDER = Path(__file__).resolve().parent / "startup"


class InvalidMutantError(Exception):
    """A mutant that cannot be applied; the text says why."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a run of an invariant's tests came to: pytest's exit status (None: timed out) and the first failure."""

    __test__ = False
    status: int | None
    failed_test: str
    detail: str
    seconds: float


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
    """Whether the mutant's file is a module of a package, replaced at import; others need a copy of the checkout."""
    return mutant.file.endswith(".py") and (root / Path(mutant.file).parts[0] / "__init__.py").is_file()


def run_tests(root: Path, invariant_id: str, timeout: float, copied: bool = False) -> TestRun:
    """Run the unmutated tests of an invariant, in a copy of the checkout when `copied`."""
    with tempfile.TemporaryDirectory(prefix="audit-baseline-") as scratch:
        place = _copy(root, Path(scratch) / "tree") if copied else root
        return _run(place, invariant_id, Path(scratch), {}, timeout)


def run_mutant(root: Path, invariant: Invariant, number: int, timeout: float) -> MutationRecord:
    """Apply mutant `number` (from 1) of the invariant and say what its tests made of it."""
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
        loads = Path(scratch) / "loads"
        if hooked(root, mutant):
            environment = _hook_environment(root, mutant, source, loads)
            run = _run(root, invariant.id, Path(scratch), environment, timeout)
        else:
            place = _copy(root, Path(scratch) / "tree")
            (place / mutant.file).write_text(source, encoding="utf-8")
            loads.write_text("loaded\n")
            run = _run(place, invariant.id, Path(scratch), {}, timeout)
        lines = loads.read_text(encoding="utf-8").splitlines() if loads.is_file() else []
    return record(*_judge(run, lines, timeout))


def _judge(run: TestRun, loads: list[str], timeout: float) -> tuple[str, str, str]:
    if loads and "loaded" not in loads:
        return "invalid", "", f"the mutant cannot be imported: {loads[0].removeprefix('failed: ')}"
    if run.status is None:
        return "timed out", run.failed_test, f"no end after {timeout:.0f} s"
    if run.status == 1 and run.failed_test:
        return "killed", run.failed_test, run.detail
    if run.status == 0:
        return "survived", "", "" if loads else "its tests never import the mutated file"
    return "invalid", "", f"pytest exit status {run.status}: {run.detail}"


def _hook_environment(root: Path, mutant: Mutant, source: str, loads: Path) -> dict[str, str]:
    parts = list(Path(mutant.file).with_suffix("").parts)
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    content = {"module": module, "path": str((root / mutant.file).resolve()), "source": source, "loads": str(loads)}
    file = loads.with_name("mutant.json")
    file.write_text(json.dumps(content), encoding="utf-8")
    rest = os.environ.get("PYTHONPATH", "")
    return {"AUDIT_MUTANT": str(file), "PYTHONPATH": os.pathsep.join(filter(None, (str(STARTUP_FOLDER), rest)))}


def _copy(root: Path, target: Path) -> Path:
    for name in listed_files(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)
    if (root / ".cache").is_dir():
        (target / ".cache").symlink_to(root / ".cache")
    return target


def _run(place: Path, invariant_id: str, scratch: Path, extra: dict[str, str], timeout: float) -> TestRun:
    files = files_for(place, invariant_id)
    if not files:
        return TestRun(5, "", f"no test file names {invariant_id}", 0.0)
    log = scratch / "log.jsonl"
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--invariant", invariant_id, f"--report-log={log}"]
    environment = {**os.environ, **read_suite_command(place).environment, **extra}
    started = time.monotonic()
    output = scratch / "output"
    with output.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=place, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
    failed, detail = _first_failure(log)
    if not detail:
        detail = " | ".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
    return TestRun(status, failed, detail, time.monotonic() - started)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what a test left running, and pytest itself after a time-out."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _first_failure(log: Path) -> tuple[str, str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    for line in lines:
        if '"TestReport"' in line and '"outcome": "failed"' in line:
            try:
                entry: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                # Cut off by the time-out.
                continue
            crash = (entry["longrepr"] or {}).get("reprcrash") if isinstance(entry["longrepr"], dict) else None
            text = str(crash["message"] if crash else entry["longrepr"])
            return entry["nodeid"], text.split("\n", 1)[0]
    return "", ""
