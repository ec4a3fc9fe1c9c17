"""`tox -e gpu` and `tox -e server`: run the tier's folder, and say plainly when it is empty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.invariant("POLICY-023")

ROOT = Path(__file__).resolve().parents[2]
MARKERS = "[pytest]\nmarkers =\n    gpu: x\n    server: x\n"


@pytest.fixture
def run_tier(tmp_path):
    """A function that runs a tier of a small project and gives exit code and output."""
    (tmp_path / "pytest.ini").write_text(MARKERS)
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_heavy.py").write_text("raise SystemExit('imported')\n")

    def run(tier, files):
        for name, text in files.items():
            (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tests" / name).write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "audit.tier", "--tier", tier, "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    return run


def test_an_empty_tier_passes_and_says_that_nothing_was_run(run_tier):
    code, output = run_tier("gpu", {})
    assert code == 0
    assert "the gpu tier has no tests" in output
    assert "passed" not in output


def test_only_the_tier_s_own_tests_are_run(run_tier):
    text = "import pytest\n\n@pytest.mark.gpu\ndef test_a():\n    assert True\n\ndef test_b():\n    assert False\n"
    code, output = run_tier("gpu", {"gpu/test_it.py": text, "server/test_other.py": "raise SystemExit\n"})
    assert code == 0
    assert "1 passed, 1 deselected" in output
    assert "has no tests" not in output


def test_a_tier_whose_files_hold_no_marked_test_fails(run_tier):
    code, _ = run_tier("server", {"server/test_it.py": "def test_a():\n    assert True\n"})
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_failing_tier_fails(run_tier):
    text = "import pytest\n\n@pytest.mark.server\ndef test_a():\n    assert False\n"
    assert run_tier("server", {"server/test_it.py": text})[0] == 1
