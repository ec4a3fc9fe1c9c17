"""Evidence symbols and markers are found in source, without importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from audit.inventory import files_for, read_marked_tests
from audit.symbols import UnknownSymbolError, find_symbol

SOURCE = '''\
"""A module that cannot be imported."""
import nowhere
from elsewhere import borrowed

LIMIT: int = 3
first, second = 1, 2
if nowhere:
    flagged = 1
else:
    flagged = 2


class Outer:
    size = 1

    @property
    def inner(self):
        return 1

    async def later(self):
        return 2
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("VERSION = 1\n")
    (tmp_path / "pack" / "part.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.invariant("SPEC-008")
@pytest.mark.parametrize(
    ("symbol", "where"),
    [
        ("pack:VERSION", "pack/__init__.py:1"),
        ("pack.part:LIMIT", "pack/part.py:5"),
        ("pack.part:second", "pack/part.py:6"),
        ("pack.part:flagged", "pack/part.py:8"),
        ("pack.part:Outer", "pack/part.py:13"),
        ("pack.part:Outer.size", "pack/part.py:14"),
        ("pack.part:Outer.inner", "pack/part.py:17"),
        ("pack.part:Outer.later", "pack/part.py:20"),
    ],
)
def test_a_symbol_is_found_where_it_is_defined(package: Path, symbol: str, where: str) -> None:
    assert find_symbol(package, symbol).where == where


@pytest.mark.invariant("SPEC-008")
@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        ("pack.other:LIMIT", "no module pack.other"),
        ("pack.part:MISSING", "defines no 'MISSING'"),
        ("pack.part:Outer.MISSING", "defines no 'MISSING'"),
        ("pack.part:LIMIT.real", "defines no 'real'"),
        ("pack.part:borrowed", "name elsewhere:borrowed"),
    ],
)
def test_a_symbol_that_is_not_defined_there_is_refused(package: Path, symbol: str, words: str) -> None:
    with pytest.raises(UnknownSymbolError, match=words):
        find_symbol(package, symbol)


def test_the_code_of_a_symbol_begins_at_its_decorator(package: Path) -> None:
    place = find_symbol(package, "pack.part:Outer.inner")
    assert place.code.splitlines() == ["    @property", "    def inner(self):", "        return 1"]


def test_markers_of_functions_classes_modules_and_parameters_are_read(tmp_path: Path) -> None:
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "deep" / "test_all.py").write_text(
        """\
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.invariant("A-001")]
@pytest.mark.invariant("A-002", "A-003")
def test_one(): pass
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.invariant("A-004"))])
def test_two(x): pass
@pytest.mark.invariant("A-005")
class TestMany:
    @pytest.mark.invariant(*IDS)
    async def test_three(self): pass
def helper(): pass
"""
    )
    found = {test.node.split("::", 1)[1]: (test.invariants, test.computed) for test in read_marked_tests(tmp_path)}
    assert found == {
        "test_one": (("A-001", "A-002", "A-003"), False),
        "test_two": (("A-001", "A-004"), False),
        "TestMany::test_three": (("A-001", "A-005"), True),
    }
    assert files_for(tmp_path, "A-004") == ("tests/deep/test_all.py",)
    # Only a run can tell what a computed marker names, so its file is always asked.
    assert files_for(tmp_path, "B-001") == ("tests/deep/test_all.py",)


def test_markers_that_a_function_makes_are_left_to_a_run(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_made.py").write_text(
        """\
import pytest
def marked(name): return pytest.param(name, marks=pytest.mark.invariant(RULES[name]))
RULES = {"one": "MADE-001"}
@pytest.mark.parametrize("name", [marked("one")])
def test_rule(name): pass
"""
    )
    (tmp_path / "tests" / "test_named.py").write_text(
        '@pytest.mark.invariant("NAMED-001")\ndef test_one(): pass\ndef test_two(): invariant = 1\n'
    )
    assert [(test.node, test.computed) for test in read_marked_tests(tmp_path)] == [
        ("tests/test_made.py::test_rule", True),
        ("tests/test_named.py::test_one", False),
    ]
    assert files_for(tmp_path, "MADE-001") == ("tests/test_made.py",)
    assert files_for(tmp_path, "NAMED-001") == ("tests/test_named.py",)


def test_the_audit_reads_evidence_without_importing_torch() -> None:
    code = "import sys, audit.report, audit.mutants; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
