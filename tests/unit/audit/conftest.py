"""A small checkout with its own package, contracts and tests for the audit to judge: real files, git and pytest."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from audit.suite import read_suite_command
from coordexp.spec import contracts_root

REPOSITORY = Path(__file__).resolve().parents[3]
OPTIONS = "--strict-markers --import-mode=importlib -p pytest_reportlog.plugin -p xdist.plugin"
# The other plugins of the environment make up most of the start of a pytest process.
ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
INVARIANTS = """\
area: toy
invariants:
  - id: TOY-001
    title: "Sums add both numbers"
    severity: P0
    statement: "add(a, b) is the sum of a and b, for negative numbers too."
    requirements: [AUDIT-1.1]
    evidence: ["toy.sums:add"]
    tier: cpu
    mutants:
      - {file: toy/sums.py, find: "a + b", replace: "a - b", why: "subtracts"}
      - {file: toy/data.txt, find: "three", replace: "four", why: "changes a data file"}
  - id: TOY-002
    title: "A table has an end"
    severity: P2
    statement: "The table of the toy package is finite, whatever it holds."
    requirements: [AUDIT-1.2, AUDIT-1.1]
    evidence: ["toy.sums:TABLE", "toy.sums:Table.size"]
    tier: cpu
    mutants: []
"""
REQUIREMENTS = """\
- {id: AUDIT-1.1, section: One, text: Sums add.}
- {id: AUDIT-1.2, section: One, text: Tables end.}
- {id: AUDIT-1.3, section: One, text: Nobody proves this.}
"""
SUMS = """\
TABLE = (1, 2, 3)


class Table:
    def size(self):
        return len(TABLE)


def add(a, b):
    return a + b
"""
TESTS = """\
from pathlib import Path

import pytest
from toy.sums import TABLE, Table, add


@pytest.mark.invariant("TOY-001")
@pytest.mark.parametrize(("a", "total"), [(1, 3), (-1, 1)])
def test_sums(a, total):
    assert add(a, 2) == total


@pytest.mark.invariant("TOY-001")
def test_data():
    assert "three" in Path("toy/data.txt").read_text()


class TestTables:
    pytestmark = pytest.mark.invariant("TOY-002")

    def test_table_ends(self):
        assert Table().size() == len(TABLE)


@pytest.mark.skip(reason="needs the moon")
def test_elsewhere():
    assert add(0, 0) == 0
"""


def write_toy_tree(root: Path) -> Path:
    """Write the checkout and commit it."""
    contents = {
        "pytest.ini": f"[pytest]\naddopts = {OPTIONS}\npythonpath = .\n",
        ".gitignore": ".audit/\n__pycache__/\n.pytest_cache/\n.hypothesis/\n",
        "toy/__init__.py": "",
        "toy/sums.py": SUMS,
        "toy/data.txt": "one two three\n",
        "tests/conftest.py": 'pytest_plugins = ["audit.recording"]\n',
        "tests/test_sums.py": TESTS,
        "contracts/invariants/toy.yaml": INVARIANTS,
        "contracts/requirements/requirements.yaml": REQUIREMENTS,
    }
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copytree(contracts_root() / "meta", root / "contracts" / "meta")
    shutil.copytree(contracts_root() / "audit", root / "contracts" / "audit", ignore=shutil.ignore_patterns("*.yaml"))
    identity = ["-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "toy"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def run_pytest(root: Path, *options: str) -> int:
    """Run the toy suite into `.audit/results.jsonl`; return pytest's exit status."""
    command = [*read_suite_command(root).arguments, *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ).returncode


@pytest.fixture(scope="session")
def proved_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkout whose suite has run once."""
    root = write_toy_tree(tmp_path_factory.mktemp("toy") / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        assert run_pytest(root) == 0
    return root


@pytest.fixture
def toy(proved_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own copy of the proved toy checkout, as the working folder; its contracts are those in force."""
    root = tmp_path / "checkout"
    shutil.copytree(proved_original, root)
    monkeypatch.chdir(root)
    for name, value in {**ENVIRONMENT, "COORDEXP_CONTRACTS_ROOT": str(root / "contracts")}.items():
        monkeypatch.setenv(name, value)
    return root


@pytest.fixture
def console() -> Console:
    """A console that nobody sees, wide enough that no line is broken."""
    return Console(file=io.StringIO(), width=200)
