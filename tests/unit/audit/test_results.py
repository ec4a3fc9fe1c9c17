"""Report logs: a complete one is read, every way of being short or ambiguous is refused, and a run knows its tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.assess import merge_runs
from audit.results import RunResults, UnusableResultsError, read_results
from audit.suite import read_suite_command
from audit.tree import NotACheckoutError, changed_files, read_tree_id

LOG = Path(".audit") / "results.jsonl"


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def write(log: Path, rows: list[dict[str, Any]]) -> None:
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.invariant("SPEC-009")
def test_a_complete_log_gives_outcomes_reasons_and_invariants(toy: Path) -> None:
    run = read_results(toy / LOG)
    assert run.of_tree(read_tree_id(toy))
    outcomes = {test.node.split("::", 1)[1]: (test.outcome, test.invariants, test.reason) for test in run.tests}
    assert outcomes == {
        "test_sums[1-3]": ("passed", ("TOY-001",), ""),
        "test_sums[-1-1]": ("passed", ("TOY-001",), ""),
        "test_data": ("passed", ("TOY-001",), ""),
        "TestTables::test_table_ends": ("passed", ("TOY-002",), ""),
        "test_elsewhere": ("skipped", (), "needs the moon"),
    }


@pytest.mark.invariant("SPEC-009")
def test_a_log_without_its_end_is_refused(toy: Path) -> None:
    log = toy / LOG
    write(log, entries(log)[:-1])
    with pytest.raises(UnusableResultsError, match="cut short"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
def test_a_half_written_line_is_refused(toy: Path) -> None:
    log = toy / LOG
    log.write_text(log.read_text()[:-20])
    with pytest.raises(UnusableResultsError, match="broken line"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
def test_a_log_without_tests_is_refused(toy: Path) -> None:
    log = toy / LOG
    write(log, [row for row in entries(log) if row["$report_type"] != "TestReport"])
    with pytest.raises(UnusableResultsError, match="holds no tests"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
def test_a_test_reported_twice_is_refused(toy: Path) -> None:
    log = toy / LOG
    rows = entries(log)
    twice = next(row for row in rows if row["$report_type"] == "TestReport")
    write(log, [*rows[:-1], twice, rows[-1]])
    with pytest.raises(UnusableResultsError, match="is there twice"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_an_interrupted_run_is_refused(toy: Path, status: int) -> None:
    log = toy / LOG
    rows = entries(log)
    write(log, [*rows[:-1], {**rows[-1], "exitstatus": status}])
    with pytest.raises(UnusableResultsError, match=f"exit status {status}"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
def test_a_test_that_never_ended_is_refused(toy: Path) -> None:
    log = toy / LOG
    rows = [row for row in entries(log) if row.get("when") != "teardown"]
    write(log, rows)
    with pytest.raises(UnusableResultsError, match="has no end"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
def test_results_without_their_tree_are_refused(toy: Path) -> None:
    (toy / ".audit" / "results.jsonl.tree.json").unlink()
    with pytest.raises(UnusableResultsError, match="no known tree"):
        read_results(toy / LOG)


@pytest.mark.invariant("SPEC-009")
def test_a_test_without_a_result_is_missed(toy: Path) -> None:
    log = toy / LOG
    write(log, [row for row in entries(log) if not row.get("nodeid", "").endswith("test_data")])
    with pytest.raises(UnusableResultsError, match=r"1 tests have no result, tests/test_sums\.py::test_data for one"):
        read_results(log)
    (toy / ".audit" / "results.jsonl.tests.json").unlink()
    with pytest.raises(UnusableResultsError, match="nobody knows which tests there were"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
@pytest.mark.parametrize("tail", [b"null\n", b"[]\n", b"7\n", b"\xff\xfe\n", b'{"$report_type": "SessionFinish"}\n'])
def test_a_log_with_something_else_in_it_is_refused(toy: Path, tail: bytes) -> None:
    log = toy / LOG
    log.write_bytes(log.read_bytes() + tail)
    with pytest.raises(UnusableResultsError, match="run the suite again"):
        read_results(log)


@pytest.mark.invariant("SPEC-009")
@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"before": 1}'])
@pytest.mark.parametrize("kind", ["tree", "tests"])
def test_a_broken_file_beside_the_log_is_refused(toy: Path, kind: str, content: str) -> None:
    (toy / ".audit" / f"results.jsonl.{kind}.json").write_text(content)
    with pytest.raises(UnusableResultsError, match="run the suite again"):
        read_results(toy / LOG)


@pytest.mark.invariant("SPEC-009")
def test_results_belong_to_no_tree_when_files_changed_meanwhile(toy: Path) -> None:
    sidecar = toy / ".audit" / "results.jsonl.tree.json"
    tree = read_tree_id(toy)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "before": tree, "after": "0" * 40}))
    assert not read_results(toy / LOG).of_tree(tree)


@pytest.mark.invariant("SPEC-015")
def test_markers_and_tree_are_recorded_under_xdist(toy: Path) -> None:
    shutil.rmtree(toy / ".audit")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", f"--report-log={LOG}"]
    subprocess.run(command, cwd=toy, check=True, capture_output=True)
    run = read_results(toy / LOG)
    assert run.of_tree(read_tree_id(toy))
    assert sorted(key for test in run.tests for key in test.invariants) == ["TOY-001"] * 3 + ["TOY-002"]
    assert (toy / ".audit" / "results.jsonl.total").read_text() == "5"


@pytest.mark.invariant("SPEC-015")
def test_a_run_can_be_narrowed_to_one_invariant(toy: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--invariant", "TOY-002", f"--report-log={LOG}"]
    subprocess.run(command, cwd=toy, check=True, capture_output=True)
    assert [test.function.rsplit("::", 1)[1] for test in read_results(toy / LOG).tests] == ["test_table_ends"]


def test_a_failure_in_one_run_wins_over_a_pass_and_a_pass_over_a_skip(toy: Path) -> None:
    run = read_results(toy / LOG)

    def with_outcome(outcome: str) -> RunResults:
        rows = entries(toy / LOG)
        for row in rows:
            if row.get("nodeid", "").endswith("test_elsewhere"):
                row["outcome"] = outcome if row["when"] == "setup" else "passed"
        write(toy / LOG, rows)
        return read_results(toy / LOG)

    failed = with_outcome("failed")
    for order in ([run, failed], [failed, run]):
        assert merge_runs(order)["tests/test_sums.py::test_elsewhere"].outcome == "failed"
    assert merge_runs([run])["tests/test_sums.py::test_elsewhere"].outcome == "skipped"


@pytest.mark.invariant("SPEC-009")
def test_a_tree_id_follows_content_not_commits(toy: Path) -> None:
    before = read_tree_id(toy)
    (toy / "new.txt").write_text("new\n")
    assert changed_files(toy) == {"new.txt"}
    changed = read_tree_id(toy)
    assert changed != before
    subprocess.run(["git", "add", "new.txt"], cwd=toy, check=True)
    assert read_tree_id(toy) == changed
    (toy / "new.txt").unlink()
    assert read_tree_id(toy) == before


def test_a_folder_that_is_no_checkout_has_no_tree(tmp_path: Path) -> None:
    with pytest.raises(NotACheckoutError, match="rev-parse failed"):
        read_tree_id(tmp_path)


def test_the_suite_is_the_one_of_tox(tmp_path: Path) -> None:
    (tmp_path / "tox.ini").write_text(
        "[testenv]\nset_env =\n    OMP_NUM_THREADS = 1\n\n[testenv:contracts]\ncommands =\n"
        "    {[testenv]py} -m pytest -n auto \\\n        --report-log=.audit/x.jsonl {posargs}\n"
    )
    suite = read_suite_command(tmp_path)
    assert suite.arguments == (sys.executable, "-m", "pytest", "-n", "auto", "--report-log=.audit/x.jsonl")
    assert suite.log == tmp_path / ".audit" / "x.jsonl"
    assert suite.environment == {"OMP_NUM_THREADS": "1"}
