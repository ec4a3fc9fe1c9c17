"""The report and the server tier on a small checkout: whose results it needs, and when one that is missing is red."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.report import main
from audit.results import read_results, without_group
from audit.suite import SERVER, read_suite_command, tiers_here
from audit.tally import main as tally_main
from coordexp.spec import check

LIVE = """\
import pytest
from toy.sums import add

pytestmark = pytest.mark.server


@pytest.mark.invariant("TOY-003")
@pytest.mark.parametrize("a", [1, 2])
def test_live(a):
    assert add(a, 1) == a + 1


@pytest.mark.invariant("TOY-001")
def test_live_too():
    assert add(1, 1) == 2
"""
DECLARED = """\
  - id: TOY-003
    title: "A server adds as well"
    severity: P2
    statement: "What a live server adds is the sum of both numbers."
    requirements: [AUDIT-1.3]
    evidence: ["toy.sums:add"]
    tier: server
    mutants: []
"""


@pytest.fixture
def served(toy: Path) -> Path:
    """The toy checkout with a server tier; the contracts tier has been run in it."""
    (toy / "tests" / "server").mkdir()
    (toy / "tests" / "server" / "test_live.py").write_text(LIVE)
    (toy / "pytest.ini").write_text((toy / "pytest.ini").read_text() + "markers =\n    server: x\n    gpu: x\n")
    declared = toy / "contracts" / "invariants" / "toy.yaml"
    declared.write_text(declared.read_text() + DECLARED)
    assert run_tier(toy, "contracts") == 0
    return toy


def run_tier(root: Path, tier: str, *options: str) -> int:
    command = [*read_suite_command(root, tier).arguments, *options]
    return subprocess.run(command, cwd=root, capture_output=True, env=os.environ, check=False).returncode


def report_of(root: Path) -> dict[str, Any]:
    return check("audit-report", json.loads((root / ".audit" / "report.json").read_text()))


def states(root: Path) -> dict[str, str]:
    return {invariant["id"]: invariant["state"] for invariant in report_of(root)["invariants"]}


@pytest.mark.invariant("SPEC-020")
def test_the_report_runs_the_server_tier_too_and_its_results_prove(served: Path) -> None:
    assert main([]) == 0
    report = report_of(served)
    assert [(run["log"], run["used"], run["passed"]) for run in report["runs"]] == [
        ("results.jsonl", True, 4),
        ("server.jsonl", True, 3),
    ]
    assert states(served) == {"TOY-001": "proved", "TOY-002": "proved", "TOY-003": "proved"}
    assert {row["id"]: row["status"] for row in report["requirements"]}["AUDIT-1.3"] == "done"
    assert main(["--no-run"]) == 0


@pytest.mark.invariant("SPEC-020")
def test_without_a_run_of_this_tree_the_server_tier_is_listed_and_not_red(served: Path) -> None:
    assert main(["--no-run"]) == 0
    assert states(served) == {"TOY-001": "proved", "TOY-002": "proved", "TOY-003": "not run"}
    listed = {row["node"]: row["reason"] for row in report_of(served)["not_run"]}
    assert listed["tests/server/test_live.py::test_live"].startswith("server tier, `tox -e server`")
    assert run_tier(served, SERVER) == 0
    (served / "toy" / "data.txt").write_text("three\n")
    assert run_tier(served, "contracts") == 0
    assert main(["--no-run"]) == 0, "results of another tree are none of this one"
    assert states(served)["TOY-003"] == "not run"


@pytest.mark.invariant("SPEC-020")
def test_a_failing_server_test_is_red(served: Path) -> None:
    path = served / "tests" / "server" / "test_live.py"
    path.write_text(LIVE.replace("== 2", "== 3"))
    assert main([]) == 1
    assert {problem["kind"] for problem in report_of(served)["problems"]} == {"test failed"}
    assert states(served) == {"TOY-001": "failing", "TOY-002": "proved", "TOY-003": "proved"}


@pytest.mark.invariant("SPEC-020")
def test_a_server_test_that_is_skipped_or_missing_where_its_tier_ran_is_red(served: Path) -> None:
    path = served / "tests" / "server" / "test_live.py"
    path.write_text(LIVE.replace("def test_live_too", '@pytest.mark.skip(reason="busy")\ndef test_live_too'))
    assert main([]) == 1
    assert [problem["text"] for problem in report_of(served)["problems"]] == [
        "tests/server/test_live.py::test_live_too: busy"
    ]
    path.write_text(LIVE + '\n\n@pytest.mark.invariant("TOY-003")\ndef test_later(): ...\n\n\ndel test_later\n')
    assert main([]) == 1
    assert {problem["kind"] for problem in report_of(served)["problems"]} == {"test was not run"}


@pytest.mark.invariant("SPEC-020")
@pytest.mark.parametrize("options", [("-k", "too"), ("-x", "--collect-only")])
def test_a_part_of_the_server_tier_is_refused_and_then_run_whole(
    served: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run_tier(served, SERVER, *options)
    assert main(["--no-run"]) == 2
    assert capsys.readouterr().err.startswith("audit.report: ")
    assert main([]) == 0
    assert states(served)["TOY-003"] == "proved"


@pytest.mark.invariant("SPEC-020")
@pytest.mark.parametrize(
    ("reported", "node"),
    [
        ("tests/server/test_a.py::test_b", "tests/server/test_a.py::test_b"),
        ("tests/server/test_a.py::test_b@live", "tests/server/test_a.py::test_b"),
        ("tests/server/test_a.py::test_b[x@y]", "tests/server/test_a.py::test_b[x@y]"),
        ("tests/server/test_a.py::test_b[x@y]@live", "tests/server/test_a.py::test_b[x@y]"),
        ("tests/ser@ver/test_a.py::test_b", "tests/ser@ver/test_a.py::test_b"),
    ],
)
def test_the_group_of_a_worker_is_no_part_of_a_test_s_name(reported: str, node: str) -> None:
    assert without_group(reported) == node


@pytest.mark.invariant("SPEC-020")
def test_results_of_two_workers_are_read_by_the_tests_names(served: Path) -> None:
    assert run_tier(served, SERVER, "-p", "xdist.plugin", "-n", "2", "--dist", "loadgroup") == 0
    run = read_results(served / ".audit" / "server.jsonl")
    assert sorted(test.node.split("::")[1] for test in run.tests) == ["test_live[1]", "test_live[2]", "test_live_too"]


@pytest.mark.invariant("POLICY-040")
def test_the_count_is_that_of_both_tiers(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiers_here(served) == ("contracts", "server")
    (served / ".audit" / "server.jsonl").unlink(missing_ok=True)
    assert tally_main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("counted as one failure: server tier: ") and "no results yet" in lines[0]
    assert lines[1:] == ["4 passed, 1 failed, 1 skipped"]
    assert run_tier(served, SERVER) == 0
    assert tally_main() == 0
    assert capsys.readouterr().out == "7 passed, 0 failed, 1 skipped\n"
    path = served / "tests" / "server" / "test_live.py"
    path.write_text(LIVE.replace("== a + 1", "== 3") + "\n")
    (served / "tests" / "test_broken.py").write_text("raise RuntimeError\n")
    run_tier(served, SERVER)
    run_tier(served, "contracts")
    assert tally_main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 2 failed", "an interrupted tier is one failure"
    run_tier(served, "contracts", "--continue-on-collection-errors")
    assert tally_main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "6 passed, 2 failed, 1 skipped"


@pytest.mark.invariant("POLICY-040")
def test_a_checkout_without_server_tests_is_counted_by_the_contracts_tier(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiers_here(toy) == ("contracts",)
    assert subprocess.run([sys.executable, "-m", "audit.tally"], cwd=toy, check=False).returncode == 0
    assert tally_main() == 0
    assert capsys.readouterr().out == "4 passed, 0 failed, 1 skipped\n"
