"""The core mutation run on a small checkout: what counts as caught, who has to be listed, and what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.core.__main__ import main
from audit.core.outcomes import Change, Mutant, read_mutants
from audit.core.score import Score, Survival, read_record, score_modules, write_record
from audit.core.survivors import Survivor, stale, unlisted
from audit.core.workspace import open_workspace
from audit.report import main as report
from audit.tree import read_tree_id

CORE = """\
from functools import lru_cache


def add(a, b):
    return a + b


def steps(n):
    count = 0
    while n > 0:
        n = n - 1
        count += 1
    return count


@lru_cache
def table():
    return build()


def build():
    return (3, 5)


class Label:
    def text(self):
        return "sum"


def unused():
    return 8
"""
TESTS = """\
from toy.core import Label, add, steps, table


def test_add():
    assert add(1, 2) == 3


def test_steps():
    assert [steps(n) for n in (0, 1, 4)] == [0, 1, 4]


def test_table_before():
    assert len(table()) == 2


def test_table():
    assert table() == (3, 5)


def test_label():
    assert Label().text()
"""
SETTINGS = """\
[tool.pytest.ini_options]
addopts = ["--import-mode=importlib"]
pythonpath = ["."]
core_cpu_seconds = "1"

[tool.mutmut]
source_paths = ["toy"]
only_mutate = ["toy/core.py"]
also_copy = ["contracts"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "audit.core.session"]
pytest_add_cli_args_test_selection = ["tests/test_core.py"]
timeout_constant = 30.0
"""
LABELS = """\
survivors:
  - where: toy.core:Label.text
    changes:
      - {before: 'return "sum"', after: 'return "XXsumXX"', why: "any label will do"}
      - {before: 'return "sum"', after: 'return "SUM"', why: "any label will do"}
  - where: toy.core:unused
    changes:
      - {before: return 8, after: return 9, why: "nothing calls this function"}
"""


GONE = "      - {before: return 8, after: return 7, why: nothing makes this change}\n"


def declare(root: Path, text: str) -> None:
    (root / "contracts" / "audit" / "core-survivors.yaml").write_text(text)


def survivor(where: str, after: str, times: int = 1) -> Survivor:
    return Survivor(Change(where, "return 1", after), "a reason", times)


@pytest.fixture
def small(toy: Path) -> Path:
    """The toy checkout with a core that mutmut can work on."""
    (toy / "toy" / "core.py").write_text(CORE)
    (toy / "tests" / "test_core.py").write_text(TESTS)
    (toy / "tests" / "conftest.py").unlink()
    (toy / "pytest.ini").unlink()
    (toy / "pyproject.toml").write_text(SETTINGS)
    return toy


def write_folder(folder: Path, codes: dict[str, int | None], kills: list[str]) -> None:
    """A folder as mutmut leaves it, with one function `f` and what became of its mutants."""
    (folder / "pkg").mkdir(parents=True)
    names = [f"pkg.one.x_f__mutmut_{number}" for number in codes]
    meta = {"exit_code_by_key": dict(zip(names, codes.values(), strict=True))}
    (folder / "pkg" / "one.py.meta").write_text(json.dumps(meta))
    rows = [json.dumps({"mutant": f"pkg.one.x_f__mutmut_{number}", "test": "tests/t.py::t"}) for number in kills]
    (folder / "kills.jsonl").write_text("".join(f"{row}\n" for row in rows))


@pytest.mark.invariant("SPEC-016")
def test_only_a_failing_test_kills(tmp_path: Path) -> None:
    write_folder(tmp_path, {"1": 1, "2": 1, "3": 0, "4": 33, "5": -27, "6": 4, "7": None, "8": 2}, kills=["1"])
    found = {mutant.name[-1]: (mutant.status, mutant.test) for mutant in read_mutants(tmp_path)}
    assert found == {
        "1": ("killed", "tests/t.py::t"), "2": ("error", ""), "3": ("survived", ""), "4": ("untested", ""),
        "5": ("timed out", ""), "6": ("error", ""), "7": ("", ""), "8": ("", ""),
    }  # fmt: skip


@pytest.mark.invariant("SPEC-016")
def test_the_score_is_what_was_caught_over_all_that_was_generated() -> None:
    statuses = ["killed"] * 6 + ["timed out", "survived", "untested", "error"]
    mutants = [Mutant(f"pkg.{'one' if i < 8 else 'two'}.x_f__mutmut_{i}", "", s, "") for i, s in enumerate(statuses)]
    one, two, total = score_modules(mutants)
    assert (one.module, one.generated, one.killed, one.timed_out, one.value) == ("pkg.one", 8, 6, 1, 7 / 8)
    assert (two.module, two.value) == ("pkg.two", 0.0)
    assert (total.module, total.generated, total.value) == ("total", 10, 0.7)


@pytest.mark.invariant("SPEC-016")
def test_each_survivor_is_listed_as_often_as_it_occurs() -> None:
    found = [Change("pkg.one:f", "return 1", "return 2")] * 2 + [Change("pkg.one:g", "return 1", "return 2")]
    assert unlisted(found, [survivor("pkg.one:f", "return 2", times=2), survivor("pkg.one:g", "return 2")]) == []
    assert unlisted(found, [survivor("pkg.one:f", "return 2")]) == found[1:]


@pytest.mark.invariant("SPEC-016")
def test_a_listed_survivor_that_is_killed_or_gone_is_stale() -> None:
    listed = [survivor("pkg.one:f", "return 2", times=2), survivor("pkg.two:g", "return 3")]
    found = [Change("pkg.one:f", "return 1", "return 2")]
    assert stale(found, listed, ["pkg.one", "pkg.two"]) == [listed[0].change, listed[1].change]
    assert stale(found, listed, ["pkg.one"]) == [listed[0].change]


@pytest.mark.invariant("SPEC-016")
def test_a_whole_run_is_recorded_for_its_tree(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(small, LABELS)
    tree = read_tree_id(small)
    assert main(["--jobs", "2"]) == 1
    assert read_tree_id(small) == tree
    record = read_record(small / ".audit" / "core-mutation.json", tree)
    assert record is not None
    assert [(row["where"], row["after"], row["status"], row["why"]) for row in record["survivors"]] == [
        ("toy.core:Label.text", 'return "SUM"', "survived", "any label will do"),
        ("toy.core:Label.text", 'return "XXsumXX"', "survived", "any label will do"),
        ("toy.core:unused", "return 9", "untested", "nothing calls this function"),
    ]
    total = record["modules"][-1]
    assert total == {"module": "total", "generated": 16, "killed": 12, "timed_out": 1, "score": 0.8125}
    shown = capsys.readouterr().out
    assert "the score 0.8125 is below 0.90" in shown
    assert "without a reason" not in shown
    assert read_record(small / ".audit" / "core-mutation.json", "0" * 40) is None

    # Another reason changes no verdict: it costs no second run, and is recorded for the new tree.
    declare(small, LABELS.replace('"any label will do"', '"whatever it says"') + GONE)
    kills = small / ".audit" / "core" / "mutants" / "kills.jsonl"
    judged = kills.read_text()
    assert main(["--jobs", "1"]) == 1
    assert kills.read_text() == judged
    shown = capsys.readouterr().out
    assert "survives no more (contracts/audit/core-survivors.yaml): toy.core:unused: 'return 8' -> 'return 7'" in shown
    record = read_record(small / ".audit" / "core-mutation.json", read_tree_id(small))
    assert record is not None
    assert record["survivors"][0]["why"] == "whatever it says"


def test_a_checkout_without_settings_is_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == f"audit.core: {toy / 'pyproject.toml'} has no [tool.mutmut]\n"


@pytest.mark.invariant("SPEC-016")
def test_a_part_is_shown_and_not_recorded(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "toy" / "core.py").write_text(CORE[: CORE.index("def steps")])
    only_add = "from toy.core import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    (small / "tests" / "test_core.py").write_text(only_add)
    assert main(["--sample", "1", "--jobs", "1"]) == 0
    assert "not recorded" in capsys.readouterr().out
    assert main(["--module", "toys"]) == 2
    assert "no mutants in 'toys'; there are some in toy.core" in capsys.readouterr().err
    assert not (small / ".audit" / "core-mutation.json").exists()


@pytest.mark.invariant("SPEC-016")
def test_results_are_kept_until_something_changes_that_could_change_a_verdict(small: Path) -> None:
    declare(small, LABELS)
    place = open_workspace(small).place
    mark = place / "mutants" / "toy" / "core.py.meta"
    mark.parent.mkdir(parents=True)
    mark.write_text('{"exit_code_by_key": {"toy.core.x_add__mutmut_1": 1, "toy.core.x_add__mutmut_2": 0}}')
    declare(small, LABELS.replace("any label", "every label"))
    assert not open_workspace(small).mixed
    assert mark.is_file()
    test = small / "tests" / "test_core.py"
    test.write_text(TESTS + "\n\ndef test_more():\n    assert add(0, 0) == 0\n")
    assert open_workspace(small, keep_kills=True).mixed
    assert json.loads(mark.read_text())["exit_code_by_key"] == {
        "toy.core.x_add__mutmut_1": 1,
        "toy.core.x_add__mutmut_2": None,
    }
    assert open_workspace(small).mixed
    test.write_text(TESTS)
    assert not open_workspace(small).mixed
    assert not mark.exists()


@pytest.mark.invariant("SPEC-016")
def test_what_the_tests_import_of_the_tests_is_copied_and_counts(small: Path) -> None:
    modules = {
        "tests/test_core.py": TESTS
        + "\n\ndef test_sum():\n    from tests.plugins import sums\n\n    assert sums.ONE == 1\n",
        "tests/plugins/sums.py": "from tests.numbers_of_plugins import ONE\n",
        "tests/numbers_of_plugins.py": "import tests.plugins.deep\n\nONE = 1\n",
        "tests/plugins/deep.py": "",
        "tests/plugins/unread.py": "import a_package_that_is_not_there\n",
    }
    for name, text in modules.items():
        (small / name).parent.mkdir(exist_ok=True)
        (small / name).write_text(text)
    declare(small, LABELS)
    place = open_workspace(small).place
    copied = {str(path.relative_to(place)) for path in (place / "tests").rglob("*.py")}
    assert copied == set(modules) - {"tests/plugins/unread.py"}
    before = (place / "inputs.txt").read_text()
    (small / "tests/plugins/unread.py").write_text("")
    assert (open_workspace(small).place / "inputs.txt").read_text() == before
    (small / "tests/plugins/deep.py").write_text("TWO = 2\n")
    assert (open_workspace(small).place / "inputs.txt").read_text() != before


@pytest.mark.invariant("SPEC-016")
@pytest.mark.parametrize(
    ("killed", "why", "status", "said"),
    [
        (95, "nothing reads it", 0, None),
        (89, "nothing reads it", 1, "0.89 is below 0.9"),
        (95, "", 1, "1 survivors have no reason"),
    ],
)
def test_the_report_shows_its_trees_score(toy: Path, killed: int, why: str, status: int, said: str | None) -> None:
    path = toy / ".audit" / "core-mutation.json"
    survival = Survival("toy.core:f", "return 1", "return 2", "survived", why)
    write_record(path, read_tree_id(toy), [Score("total", 100, killed, 0)], [survival])
    assert report(["--no-run"]) == status
    written = json.loads((toy / ".audit" / "report.json").read_text())
    assert written["core_mutation"]["score"] == killed / 100
    assert [problem["text"] for problem in written["problems"]] == ([said] if said else [])
    page = (toy / ".audit" / "report.md").read_text()
    assert f"| core mutation score | {killed / 100} ({killed} of 100 caught) |" in page


@pytest.mark.invariant("SPEC-016")
def test_the_report_says_that_the_core_was_not_mutated_in_its_tree(toy: Path) -> None:
    write_record(toy / ".audit" / "core-mutation.json", "0" * 40, [Score("total", 100, 10, 0)], [])
    assert report(["--no-run"]) == 0
    assert json.loads((toy / ".audit" / "report.json").read_text())["core_mutation"] is None
    assert "| core mutation score | not run (`python -m audit.core`) |" in (toy / ".audit" / "report.md").read_text()
