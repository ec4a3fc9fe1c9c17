"""Mutation runs on a small checkout: killed, survived, invalid, timed out, and the source untouched throughout."""

from __future__ import annotations

import json
import py_compile
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.mutants import main
from audit.mutation import InvalidMutantError, mutate, replace_source, run_mutant, run_unmutated
from audit.mutation_records import MutationRecord
from audit.tree import read_tree_id
from audit.warm import WarmServer, WarmServerError
from coordexp.spec import Mutant, check, load_invariants

DECLARED = Path("contracts") / "invariants" / "toy.yaml"
FIRST = '{file: toy/sums.py, find: "a + b", replace: "a - b", why: "subtracts"}'


def declare(root: Path, mutant: str) -> None:
    text = (root / DECLARED).read_text()
    assert FIRST in text
    (root / DECLARED).write_text(text.replace(FIRST, mutant))


@pytest.mark.invariant("SPEC-011")
def test_mutants_are_killed_and_the_source_stays(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = read_tree_id(toy)
    assert main(["--jobs", "1", "--json", str(toy / ".audit" / "out.json")]) == 0
    assert read_tree_id(toy) == tree
    records = check("mutation-records", json.loads((toy / ".audit" / "out.json").read_text()))["records"]
    assert [(row["status"], row["test"]) for row in records] == [
        ("killed", "tests/test_sums.py::test_sums[1-3]"),
        ("killed", "tests/test_sums.py::test_data"),
    ]
    assert "assert -1 == 3" in records[0]["detail"]
    assert "2 of 2 mutants killed" in capsys.readouterr().out
    assert main([]) == 0
    assert "0 of 0 mutants killed, 2 known" in capsys.readouterr().out


@pytest.mark.invariant("SPEC-011")
@pytest.mark.parametrize(
    ("find", "replace", "status", "words"),
    [
        ("a + b", "b + a", "survived", ""),
        ("return a", "import nowhere; return a", "killed", "nowhere"),
        ("TABLE = ", "TABLE = nowhere or ", "invalid", "imported"),
        ("return a + b", "while True: pass", "timed out", "no end"),
    ],
)
def test_a_mutant_is_judged_by_what_its_tests_did(toy: Path, find: str, replace: str, status: str, words: str) -> None:
    declare(toy, f'{{file: toy/sums.py, find: "{find}", replace: "{replace}", why: "a fault"}}')
    record = run_mutant(toy, load_invariants()[0], 1, timeout=3 if status == "timed out" else 60)
    assert record.status == status
    assert words in record.detail


CHILD = """\
import subprocess, sys
from pathlib import Path

import pytest


@pytest.mark.invariant("TOY-001")
def test_half():
    code = "from toy.sums import half; assert half(4) == 2"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(Path.cwd())}, check=True)
"""


@pytest.mark.invariant("SPEC-011")
def test_a_child_with_an_environment_of_its_own_meets_the_mutant_in_a_copy(toy: Path) -> None:
    with (toy / "toy" / "sums.py").open("a") as stream:
        stream.write("\n\ndef half(a):\n    return a / 2\n")
    (toy / "tests" / "test_child.py").write_text(CHILD)
    declare(toy, '{file: toy/sums.py, find: "a / 2", replace: "a / 3", why: "a third"}')
    record = run_mutant(toy, load_invariants()[0], 1, timeout=60)
    assert (record.status, record.test) == ("killed", "tests/test_child.py::test_half")


@pytest.mark.invariant("SPEC-011")
def test_a_replaced_source_outdates_the_bytecode_written_in_the_same_second(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("value = 2\n")
    py_compile.compile(str(path))
    replace_source(path, "value = 3\n")
    child = [sys.executable, "-c", "import module; print(module.value)"]
    assert subprocess.run(child, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "3\n"


@pytest.mark.invariant("SPEC-011")
def test_a_warm_process_comes_to_the_same_verdicts_and_stays_clean(toy: Path) -> None:
    declared = load_invariants()[0]
    faults = [("a - b", "killed"), ("b + a", "survived"), ("a + nowhere", "killed")]
    mutants = tuple(Mutant(file="toy/sums.py", find="a + b", replace=text, why="a fault") for text, _ in faults)
    invariant = replace(declared, mutants=mutants)
    with WarmServer(toy, {}, preloaded=("toy.sums", "yaml")) as server:
        verdicts = [run_mutant(toy, invariant, number, 60, server).status for number in (1, 2, 3)]
        assert verdicts == [status for _, status in faults]
        assert run_unmutated(toy, "TOY-001", 60, server).status == 0


@pytest.mark.invariant("SPEC-011")
def test_a_warm_process_ends_tests_that_do_not(toy: Path) -> None:
    (toy / "toy" / "sums.py").write_text("while True:\n    pass\n")
    with WarmServer(toy, {}, preloaded=("yaml",)) as server:
        run = run_unmutated(toy, "TOY-001", 2, server)
    assert run.status is None


def test_a_warm_process_that_went_away_is_named(toy: Path) -> None:
    (toy / "toy" / "ending.py").write_text("import os\nos._exit(3)\n")
    with (
        WarmServer(toy, {}, preloaded=("toy.ending",)) as server,
        pytest.raises(WarmServerError, match="went away"),
    ):
        run_unmutated(toy, "TOY-001", 2, server)


@pytest.mark.invariant("SPEC-011")
def test_a_survivor_ends_with_status_one(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(toy, '{file: toy/sums.py, find: "a + b", replace: "b + a", why: "swaps the numbers"}')
    assert main(["--invariant", "TOY-001", "--changed", "--jobs", "1"]) == 1
    assert "survived" in capsys.readouterr().out


@pytest.mark.invariant("SPEC-011")
def test_tests_that_fail_unmutated_kill_nothing(toy: Path) -> None:
    test = toy / "tests" / "test_sums.py"
    test.write_text(test.read_text().replace("== total", "!= total"))
    assert main(["--jobs", "1", "--json", str(toy / ".audit" / "out.json")]) == 1
    records = json.loads((toy / ".audit" / "out.json").read_text())["records"]
    assert [row["status"] for row in records] == ["error", "error"]
    assert "its unmutated tests end with pytest status 1" in records[0]["detail"]


@pytest.mark.invariant("SPEC-011")
@pytest.mark.parametrize(
    ("file", "find", "replace", "words"),
    [
        ("toy/none.py", "a", "b", "does not exist"),
        ("toy/sums.py", "return", "yield", "occurs 2 times"),
        ("toy/sums.py", "nothing like it", "b", "occurs 0 times"),
        ("toy/sums.py", "a + b", "a + b", "changes nothing"),
        ("toy/sums.py", "a + b", "a + )", "no Python"),
    ],
)
def test_a_mutant_that_cannot_be_applied_is_refused(toy: Path, file: str, find: str, replace: str, words: str) -> None:
    with pytest.raises(InvalidMutantError, match=words):
        mutate(toy, Mutant(file=file, find=find, replace=replace, why="a fault"))


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--invariant", "TOY-009"], "no invariant TOY-009"), (["--area", "toys"], "no area 'toys'; allowed: toy")],
)
@pytest.mark.usefixtures("toy")
def test_a_selection_of_nothing_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert main(options) == 2
    assert words in capsys.readouterr().err


def test_only_what_changed_is_run_when_asked(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--changed"]) == 0
    assert "0 of 0 mutants" in capsys.readouterr().out
    (toy / "toy" / "data.txt").write_text("one two three \n")
    assert main(["--changed", "--jobs", "1"]) == 0
    assert "1 of 1 mutants" in capsys.readouterr().out


@pytest.mark.invariant("SPEC-011")
def test_a_result_that_came_while_files_changed_is_dropped(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import audit.campaign

    def changed_meanwhile(root: Path, *arguments: Any) -> MutationRecord:
        (root / "toy" / "sums.py").write_text("raise SystemExit\n")
        return run_mutant(root, *arguments)

    monkeypatch.setattr(audit.campaign, "run_mutant", changed_meanwhile)
    assert main(["--jobs", "1"]) == 2
    assert "the files changed while TOY-001 #1 ran; its result is dropped" in capsys.readouterr().err
    assert not (toy / ".audit" / "mutants.json").exists()


@pytest.mark.invariant("SPEC-011")
def test_ctrl_c_ends_the_run_and_keeps_what_is_known(toy: Path) -> None:
    declare(
        toy, '{file: toy/sums.py, find: "return a + b", replace: "__import__(\'time\').sleep(90)", why: "ends late"}'
    )
    command = [sys.executable, "-m", "audit.mutants", "--jobs", "1"]
    # A suite that a shell runs in the background has SIGINT ignored, and its children inherit that.
    process = subprocess.Popen(
        command,
        cwd=toy,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 2 and time.monotonic() - started < 30
    assert errors == "audit.mutants: interrupted; the same command goes on from here\n"


@pytest.mark.invariant("SPEC-011")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--jobs", "0"], "'0' is no whole number of at least 1"),
        (["--timeout", "-1"], "'-1' is no whole number of at least 1"),
        (["--area", "toy", "--invariant", "TOY-009"], "no invariant TOY-009"),
        (["--area", "moon"], "no area 'moon'"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(
    toy: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    try:
        status = main(options)
    except SystemExit as end:
        status = int(str(end.code))
    assert status == 2
    assert says in capsys.readouterr().err
