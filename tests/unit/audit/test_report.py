"""The report on small checkouts: what turns it red, what it shows, and that it opens without a network."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from audit.report import main
from coordexp.spec import check, load_requirements
from tests.unit.audit.conftest import run_pytest

SUMS, TESTS, DECLARED = "toy/sums.py", "tests/test_sums.py", "contracts/invariants/toy.yaml"


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert text.count(old) == 1
    (root / name).write_text(text.replace(old, new))


def retie(root: Path) -> None:
    """Say that the recorded results are those of the tree as it is now, as a run of it would."""
    from audit.tree import read_tree_id

    sidecar = root / ".audit" / "results.jsonl.tree.json"
    tree = read_tree_id(root)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "before": tree, "after": tree}))


def report_of(root: Path) -> dict[str, Any]:
    return check("audit-report", json.loads((root / ".audit" / "report.json").read_text()))


def kinds(root: Path) -> set[str]:
    return {problem["kind"] for problem in report_of(root)["problems"]}


@pytest.mark.invariant("SPEC-008", "SPEC-010")
def test_a_proved_tree_is_green_and_shows_evidence_tests_and_requirements(toy: Path) -> None:
    assert main(["--no-run"]) == 0
    report = report_of(toy)
    first, second = report["invariants"]
    assert (first["state"], first["severity"], first["declared"]) == ("proved", "P0", "contracts/invariants/toy.yaml:3")
    assert first["evidence"][0]["where"] == "toy/sums.py:9"
    assert "return a + b" in first["evidence"][0]["code"]
    assert [(test["where"], test["passed"]) for test in first["tests"]] == [
        ("tests/test_sums.py:9", 2),
        ("tests/test_sums.py:14", 1),
    ]
    assert [place["where"] for place in second["evidence"]] == ["toy/sums.py:1", "toy/sums.py:5"]
    assert {row["id"]: row["status"] for row in report["requirements"]} == {
        "AUDIT-1.1": "done",
        "AUDIT-1.2": "done",
        "AUDIT-1.3": "not yet",
    }
    assert report["requirements"][0]["severities"] == ["P0", "P2"]
    assert [(test["invariant"], test["outcome"]) for test in report["requirements"][0]["tests"]] == [
        ("TOY-001", "passed"),
        ("TOY-001", "passed"),
        ("TOY-002", "passed"),
    ]
    assert report["environment"]["versions"]["torch"]
    page = (toy / ".audit" / "report.html").read_text()
    assert "10      return a + b" in page
    assert "python -m pytest --invariant TOY-001" in page
    assert {row["node"]: row["reason"] for row in report["not_run"]} == {
        "python -m audit.core": "no whole run in this tree",
        "python -m audit.mutants": "2 of 2 declared mutants have no result in this tree",
        "tests/test_sums.py::test_elsewhere": "needs the moon",
    }


@pytest.mark.invariant("SPEC-008")
def test_tests_of_other_tiers_are_listed_with_what_they_need(toy: Path) -> None:
    (toy / "tests" / "gpu").mkdir()
    (toy / "tests" / "gpu" / "test_far.py").write_text(
        "import pytest\n\n\n@pytest.mark.gpu\n@pytest.mark.skipif(True, reason='no GPU')\ndef test_far(): ...\n"
    )
    retie(toy)
    assert main(["--no-run"]) == 0
    listed = {row["node"]: row["reason"] for row in report_of(toy)["not_run"]}
    assert listed["tests/gpu/test_far.py::test_far"] == "never run on a GPU: no GPU"


@pytest.mark.invariant("SPEC-008")
@pytest.mark.parametrize(
    ("name", "old", "new", "kind"),
    [
        (DECLARED, "toy.sums:add", "toy.sums:multiply", "evidence does not exist"),
        (DECLARED, "id: TOY-002", "id: TOY-003", "invariant without a test"),
        (DECLARED, "id: TOY-002", "id: TOY-003", "marker without an invariant"),
        (DECLARED, "[AUDIT-1.1]", "[AUDIT-9.9]", "unknown requirement"),
        (TESTS, "def test_data", "def test_data_file", "test was not run"),
    ],
)
def test_a_gap_between_declarations_and_tests_is_red(toy: Path, name: str, old: str, new: str, kind: str) -> None:
    edit(toy, name, old, new)
    retie(toy)
    assert main(["--no-run"]) == 1
    assert kind in kinds(toy)


@pytest.mark.invariant("SPEC-008", "SPEC-010")
def test_a_failing_test_is_red_and_its_requirement_is_not_done(toy: Path) -> None:
    edit(toy, SUMS, "a + b", "a - b")
    assert main([]) == 1
    report = report_of(toy)
    assert {"test failed"} == kinds(toy)
    assert report["invariants"][0]["state"] == "failing"
    assert report["requirements"][0]["status"] == "partly"
    assert "TOY-001 is failing" in report["requirements"][0]["reason"]


@pytest.mark.invariant("SPEC-008", "SPEC-010")
def test_an_invariant_whose_tests_are_all_skipped_is_red(toy: Path) -> None:
    edit(toy, TESTS, '    pytestmark = pytest.mark.invariant("TOY-002")',
         '    pytestmark = [pytest.mark.invariant("TOY-002"), pytest.mark.skip(reason="later")]')  # fmt: skip
    assert main([]) == 1
    assert kinds(toy) == {"test of an invariant was skipped"}
    assert report_of(toy)["requirements"][1]["status"] == "not yet"


@pytest.mark.invariant("SPEC-008")
@pytest.mark.parametrize("severity", ["P0", "P2"])
def test_a_surviving_mutant_is_red(toy: Path, severity: str) -> None:
    edit(toy, DECLARED, "severity: P0", f"severity: {severity}")
    retie(toy)
    from audit.mutation_records import MutationRecord, write_records
    from audit.tree import read_tree_id

    record = MutationRecord("TOY-001", 1, SUMS, "subtracts", "survived", "", "", 1.0)
    write_records(toy / ".audit" / "mutants.json", read_tree_id(toy), [record])
    assert main(["--no-run"]) == 1
    assert kinds(toy) == {"mutant not killed"}
    assert report_of(toy)["invariants"][0]["mutants"][0]["status"] == "survived"


@pytest.mark.invariant("SPEC-008")
def test_an_invariant_of_which_one_case_is_skipped_is_red(toy: Path) -> None:
    edit(toy, TESTS, "(-1, 1)]", '(-1, 1), pytest.param(0, 2, marks=pytest.mark.xfail(run=False, reason="later"))]')
    assert main([]) == 1
    (problem,) = report_of(toy)["problems"]
    assert problem["kind"] == "test of an invariant was skipped" and "later" in problem["text"]


@pytest.mark.invariant("SPEC-009")
@pytest.mark.parametrize(
    "options", [["-k", "not test_data"], ["--deselect", "tests/test_sums.py::test_data"], ["tests"]]
)
def test_results_of_a_part_of_the_suite_are_refused(
    toy: Path, capsys: pytest.CaptureFixture[str], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_pytest(toy, *options) == 0
    assert main(["--no-run"]) == 2
    assert "are of a part of the contracts tier" in capsys.readouterr().err
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(map(shlex.quote, options)))
    assert run_pytest(toy) == 0
    assert main(["--no-run"]) == 2
    assert main([]) == 0, "the suite that the report runs is the whole one"


@pytest.mark.invariant("SPEC-009")
def test_results_made_with_other_versions_are_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar = toy / ".audit" / "results.jsonl.tree.json"
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "versions": {**content["versions"], "torch": "0.1"}}))
    assert main(["--no-run"]) == 2
    assert "with other versions of torch" in capsys.readouterr().err


@pytest.mark.invariant("SPEC-008")
def test_a_worker_that_crashed_stands_against_what_its_test_claims(toy: Path) -> None:
    log = toy / ".audit" / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [row for row in rows if not row.get("nodeid", "").endswith("test_data") or row.get("when") != "setup"]
    crash = {"nodeid": "tests/test_sums.py::test_data", "when": "???", "outcome": "failed", "duration": 0.0,
             "longrepr": "worker 'gw0' crashed", "user_properties": [], "$report_type": "TestReport"}  # fmt: skip
    kept = [row for row in kept if not row.get("nodeid", "").endswith("test_data")]
    log.write_text("".join(json.dumps(row) + "\n" for row in [*kept[:-1], crash, {**rows[-1], "exitstatus": 1}]))
    assert main(["--no-run"]) == 1
    assert report_of(toy)["invariants"][0]["state"] == "failing"


@pytest.mark.invariant("SPEC-009")
@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_file_that_git_is_told_to_pass_over_counts_too(toy: Path, flag: str) -> None:
    subprocess.run(["git", "update-index", flag, SUMS], cwd=toy, check=True)
    assert main(["--no-run"]) == 0
    edit(toy, SUMS, "TABLE = (1, 2, 3)", "TABLE = (1, 2)")
    assert main(["--no-run"]) == 2


@pytest.mark.invariant("SPEC-009")
def test_results_of_another_tree_are_refused_and_then_renewed(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(toy, SUMS, "TABLE = (1, 2, 3)", "TABLE = (1, 2)")
    assert main(["--no-run"]) == 2
    assert "the results of the contracts tier belong to another tree" in capsys.readouterr().err
    assert not (toy / ".audit" / "report.json").exists()
    assert main([]) == 0
    assert main(["--no-run"]) == 0


@pytest.mark.invariant("SPEC-009")
def test_committing_a_tested_tree_keeps_its_results(toy: Path) -> None:
    (toy / "NOTES").write_text("new\n")
    retie(toy)
    identity = ["-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    subprocess.run(["git", "add", "-A"], cwd=toy, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "notes"], cwd=toy, check=True)
    assert main(["--no-run"]) == 0


@pytest.mark.invariant("SPEC-010")
@pytest.mark.parametrize(
    ("remark", "status", "words"),
    [
        ("AUDIT-1.3: {kind: document, where: toy/data.txt, note: the list of numbers}", "done", "the list of numbers"),
        ("AUDIT-1.3: {kind: document, where: toy/none.txt, note: the list of numbers}", "not yet", "does not exist"),
        ("AUDIT-1.3: {kind: document, where: ../outside.txt, note: outside}", "not yet", "does not exist"),
        ("AUDIT-1.3: {kind: finding, where: FIND-001, note: as found}", "not yet", "FIND-001 does not exist"),
        ("AUDIT-1.3: {kind: deferred, note: needs a GPU}", "not yet", "needs a GPU"),
        ("AUDIT-1.1: {kind: partly, note: only for integers}", "partly", "only for integers"),
        ("AUDIT-1.2: {kind: deferred, note: needs a GPU}", "not yet", "needs a GPU"),
    ],
)
def test_remarks_lower_a_status_and_documents_defend_it(toy: Path, remark: str, status: str, words: str) -> None:
    (toy / "contracts" / "requirements" / "status.yaml").write_text(remark + "\n")
    (toy.parent / "outside.txt").write_text("not part of the checkout\n")
    retie(toy)
    assert main(["--no-run"]) == 0
    row = next(row for row in report_of(toy)["requirements"] if remark.startswith(row["id"] + ":"))
    assert row["status"] == status
    assert words in row["reason"]


@pytest.mark.invariant("SPEC-013")
def test_findings_are_shown_with_their_lines_and_the_command(toy: Path) -> None:
    (toy / "contracts" / "audit" / "findings.yaml").write_text(
        """\
findings:
  - id: FIND-001
    severity: P1
    status: open
    title: "Sums of text are joined"
    explanation: "add('1', '2') is '12'; nothing refuses text."
    evidence: [{symbol: "toy.sums:add"}, {file: toy/sums.py, text: "return a + b"}]
    verify: "python -m pytest tests/test_sums.py"
    requirements: [AUDIT-1.1]
"""
    )
    retie(toy)
    assert main(["--no-run"]) == 0
    finding = report_of(toy)["findings"][0]
    assert finding["evidence"] == ["toy/sums.py:9", "toy/sums.py:10"]
    for kind in ("md", "html"):
        text = (toy / ".audit" / f"report.{kind}").read_text()
        assert "toy/sums.py:10" in text
        assert "python -m pytest tests/test_sums.py" in text
    edit(toy, SUMS, "return a + b", "return b + a")
    retie(toy)
    assert main(["--no-run"]) == 1
    assert kinds(toy) == {"evidence does not exist"}


class Links(HTMLParser):
    """Collects what a page would load and the ids and words in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values["id"] or ""} if "id" in values else set()
        targets = [value or "" for key, value in attrs if key in ("src", "href", "data")]
        self.loads += [target for target in targets if not target.startswith("#")]


@pytest.mark.invariant("SPEC-012")
def test_the_page_loads_nothing_and_escapes_what_it_shows(toy: Path) -> None:
    edit(toy, DECLARED, "Sums add both numbers", "Sums add <b>both</b> numbers")
    retie(toy)
    assert main(["--no-run"]) == 0
    page = (toy / ".audit" / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.loads == []
    assert not re.search(r"https?://|@import|url\(|<link", page)
    assert {"TOY-001", "TOY-002", "AUDIT-1.1", "AUDIT-1.3", "search", "severity", "area", "status"} <= links.ids
    assert "&lt;b&gt;both&lt;/b&gt;" in page


@pytest.mark.invariant("SPEC-013")
def test_every_requirement_stands_in_the_matrix(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDEXP_CONTRACTS_ROOT")
    source = load_requirements()
    assert len(source) == 191
    monkeypatch.setenv("COORDEXP_CONTRACTS_ROOT", str(toy / "contracts"))
    target = toy / "contracts" / "requirements" / "requirements.yaml"
    rows = [{"id": row.id, "section": row.section, "text": row.text} for row in source]
    target.write_text(json.dumps(rows))
    retie(toy)
    assert main(["--no-run"]) == 0
    assert [row["id"] for row in report_of(toy)["requirements"]] == [row.id for row in source]
    assert (toy / ".audit" / "report.md").read_text().count("| AUDIT-") == sum(r.id.startswith("AUDIT") for r in source)


@pytest.mark.invariant("SPEC-008")
def test_a_broken_declaration_is_one_line_and_status_two(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(toy, DECLARED, "area: toy", "area: toy\nareas: 3")
    retie(toy)
    assert main(["--no-run"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "unknown key 'areas'" in complaint


def test_the_command_line_describes_itself() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "audit.report", "--help"], capture_output=True, text=True, env=os.environ, check=True
    )
    assert "--no-run" in answer.stdout
