"""`tox -e gpu` and `tox -e server`: run the tier's folder, and say plainly when it is empty; scripts/test.sh runs both
tiers that a CPU can run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audit.groups import read_groups
from audit.suite import SERVER, read_suite_command

ROOT = Path(__file__).resolve().parents[2]
MARKERS = "[pytest]\nmarkers =\n    gpu: x\n    server: x\n"


@pytest.fixture
def run_tier(tmp_path):
    """A function that runs a tier of a small project and gives exit code and output."""
    (tmp_path / "pytest.ini").write_text(MARKERS)
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_heavy.py").write_text("raise SystemExit('imported')\n")

    def run(tier, files, options=()):
        for name, text in files.items():
            (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tests" / name).write_text(text)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "audit.tier",
            "--tier",
            tier,
            "-p",
            "no:cacheprovider",
            *options,
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    return run


@pytest.mark.invariant("POLICY-023")
def test_an_empty_tier_passes_and_says_that_nothing_was_run(run_tier):
    code, output = run_tier("gpu", {})
    assert code == 0
    assert "the gpu tier has no tests" in output
    assert "passed" not in output


@pytest.mark.invariant("POLICY-023")
def test_only_the_tier_s_own_tests_are_run(run_tier):
    text = "import pytest\n\n@pytest.mark.gpu\ndef test_a():\n    assert True\n\ndef test_b():\n    assert False\n"
    code, output = run_tier("gpu", {"gpu/test_it.py": text, "server/test_other.py": "raise SystemExit\n"})
    assert code == 0
    assert "1 passed, 1 deselected" in output
    assert "has no tests" not in output


@pytest.mark.invariant("POLICY-023")
def test_a_tier_whose_files_hold_no_marked_test_fails(run_tier):
    code, _ = run_tier("server", {"server/test_it.py": "def test_a():\n    assert True\n"})
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.invariant("POLICY-023")
def test_a_failing_tier_fails(run_tier):
    text = "import pytest\n\n@pytest.mark.server\ndef test_a():\n    assert False\n"
    assert run_tier("server", {"server/test_it.py": text})[0] == 1


@pytest.mark.invariant("POLICY-023")
def test_the_server_tier_as_tox_runs_it_passes_when_it_is_empty(run_tier):
    options = read_suite_command(ROOT, SERVER).options
    code, output = run_tier(SERVER, {}, options[options.index("server") + 1 :])
    assert code == 0
    assert "the server tier has no tests" in output


GROUPED = """
import os
import pytest

pytestmark = pytest.mark.server

@pytest.mark.xdist_group("live")
@pytest.mark.parametrize("case", ["a", "b@c", "d"])
def test_first(case, record_property):
    record_property("worker", os.environ["PYTEST_XDIST_WORKER"])
    assert case
"""


@pytest.mark.invariant("POLICY-041")
def test_tests_of_one_server_share_a_worker(run_tier):
    second = GROUPED.replace('@pytest.mark.xdist_group("live")\n', "").replace(
        "pytestmark = pytest.mark.server", 'pytestmark = [pytest.mark.server, pytest.mark.xdist_group(name="live")]'
    )
    files = {"server/test_one.py": GROUPED, "server/test_two.py": second}
    alone = GROUPED.replace('@pytest.mark.xdist_group("live")\n', "")
    options = ("-n", "2", "--dist", "loadgroup", "-v")
    code, output = run_tier(SERVER, {**files, "server/test_alone.py": alone}, options)
    assert code == 0
    by_test = {test: worker for worker, test in re.findall(r"\[(gw\d)\][^\n]* PASSED (\S+)", output)}
    assert len(by_test) == 9 and set(by_test.values()) == {"gw0", "gw1"}
    assert len({worker for test, worker in by_test.items() if "alone" not in test}) == 1


@pytest.mark.invariant("POLICY-041")
def test_the_nearest_group_counts_and_a_computed_one_is_refused(tmp_path):
    (tmp_path / "tests" / "server").mkdir(parents=True)
    path = tmp_path / "tests" / "server" / "test_it.py"
    path.write_text(
        "pytestmark = [pytest.mark.xdist_group('module')]\n"
        "def test_a(): ...\n"
        "@pytest.mark.xdist_group('own')\ndef test_b(): ...\n"
        "class TestC:\n    pytestmark = pytest.mark.xdist_group('class')\n    def test_d(self): ...\n"
    )
    assert read_groups(tmp_path, SERVER) == {
        "tests/server/test_it.py::test_a": "module",
        "tests/server/test_it.py::test_b": "own",
        "tests/server/test_it.py::TestC::test_d": "class",
    }
    path.write_text("@pytest.mark.xdist_group(NAME)\ndef test_b(): ...\n")
    with pytest.raises(ValueError, match=r"tests/server/test_it\.py:1: xdist_group takes one name, written out"):
        read_groups(tmp_path, SERVER)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A project with the shipped scripts/test.sh, this environment, and two tiers of one test each."""
    root = tmp_path_factory.mktemp("planted")
    for folder in ("scripts", "tests/unit", "tests/server"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "test.sh", root / "scripts" / "test.sh")
    (root / "scripts" / "setup.sh").write_text("true\n")
    (root / ".venv").symlink_to(sys.prefix)
    (root / "conftest.py").write_text('pytest_plugins = ["audit.recording"]\n')
    (root / "pytest.ini").write_text(MARKERS)
    (root / ".gitignore").write_text(".venv\n.tox\n.audit\n__pycache__\n")
    text = (ROOT / "tox.ini").read_text().replace("    python {toxinidir}{/}scripts{/}setup_env.py\n", "")
    (root / "tox.ini").write_text(text.replace("-n auto --maxprocesses 8 --dist worksteal", "-p no:cacheprovider"))
    return root


@pytest.mark.slow
@pytest.mark.invariant("POLICY-042")
@pytest.mark.parametrize(
    ("contracts", "server", "code", "count"),
    [
        ("True", "True", 0, "2 passed, 0 failed"),
        ("False", "True", 1, "1 passed, 1 failed"),
        ("True", "False", 1, "1 passed, 1 failed"),
        ("True", "int('x', 99)", 1, "1 passed, 1 failed"),
    ],
)
def test_the_test_command_runs_both_tiers_and_fails_when_either_does(planted, contracts, server, code, count):
    (planted / "tests" / "unit" / "test_a.py").write_text(f"def test_a():\n    assert {contracts}\n")
    marked = f"import pytest\n\n@pytest.mark.server\ndef test_b():\n    assert {server}\n"
    (planted / "tests" / "server" / "test_b.py").write_text(marked)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    # tox hands no PYTHONPATH on; the planted project takes the audit from here.
    environment["TOX_OVERRIDE"] = f"testenv.set_env=PYTHONPATH={ROOT}"
    done = subprocess.run(
        ["bash", "scripts/test.sh"], cwd=planted, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == count, done.stdout + done.stderr
    assert done.returncode == code


@pytest.mark.invariant("POLICY-042")
def test_ci_runs_the_test_command_and_ends_with_its_count():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "bash scripts/test.sh || status=$?" in lines
    assert ".venv/bin/python -m audit.report || status=$?" in lines
    assert lines[-2:] == [".venv/bin/python -m audit.tally || status=1", 'exit "$status"']
