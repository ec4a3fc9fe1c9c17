"""Records of GPU runs: written by a real run with a stand-in driver, accepted, shown, and never taken for more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.gpu.__main__ import main as gpu_main
from audit.gpu.device import Device, read_devices
from audit.gpu.records import RecordError, accept, load_records, passed_in
from audit.report import main
from audit.tree import read_tree_id
from coordexp.spec import ContractViolation, check
from tests.unit.audit.conftest import run_pytest

TESTS = """\
import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.invariant("TOY-003")
@pytest.mark.parametrize("x", [1, 2])
def test_fast(x, record_number):
    record_number("speed", 100.0 * x, "tokens/s")
    record_number("memory", 1.5, "GiB")
    assert x


@pytest.mark.skipif(True, reason="needs two GPUs")
def test_two():
    assert False


def test_wrong():
    assert 1 == 2, "off by one"
"""
DECLARED = """\
  - id: TOY-003
    title: "A device adds as well"
    severity: P2
    statement: "What a GPU adds is the sum of both numbers."
    requirements: [AUDIT-1.3]
    evidence: ["toy.sums:add"]
    tier: gpu
    mutants: []
"""
DRIVER = "NVIDIA H100 80GB HBM3, 81559, 570.86.10"


@pytest.fixture
def gpu_tree(toy: Path) -> Path:
    """The toy checkout with a gpu tier, committed; the contracts tier has been run in it."""
    (toy / "tests" / "gpu").mkdir()
    (toy / "tests" / "gpu" / "test_it.py").write_text(TESTS)
    (toy / "tests" / "conftest.py").write_text('pytest_plugins = ["audit.recording", "audit.gpu.recording"]\n')
    (toy / "pytest.ini").write_text((toy / "pytest.ini").read_text() + "markers =\n    gpu: x\n")
    declared = toy / "contracts" / "invariants" / "toy.yaml"
    declared.write_text(declared.read_text() + DECLARED)
    commit(toy)
    assert run_pytest(toy) == 0
    return toy


def commit(root: Path) -> None:
    identity = ["-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "more"], cwd=root, check=True)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in nvidia-smi first on PATH; its text is what the driver says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "says").write_text(f"{DRIVER}\n")
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\ncase "$1" in --query-gpu=name,memory.total,driver_version) cat {folder}/says;; '
                       "*) exit 2;; esac\n")  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "says"


def run_gpu(root: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "audit.tier", "--tier", "gpu", *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ, check=False).stdout


def record_of(root: Path) -> dict[str, Any]:
    return check("gpu-record", json.loads((root / ".audit" / "gpu-record.json").read_text()))


def report_of(root: Path) -> dict[str, Any]:
    return check("audit-report", json.loads((root / ".audit" / "report.json").read_text()))


def plant(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A committed record with one passed test; keyword arguments replace its entries."""
    test = {"node": "tests/gpu/test_it.py::test_fast[1]", "outcome": "passed", "reason": "", "seconds": 1.0,
            "numbers": [{"name": "speed", "value": 12345.0, "unit": "tokens/s"}]}  # fmt: skip
    versions = {"torch": "2.13.0", "transformers": "5.19.0", "ms-swift": "4.6.0", "vllm": None}
    content = {
        "schema_version": 1, "date": "2026-01-02T03:04:05+00:00", "revision": "a" * 40, "tree": "b" * 40,
        "devices": [{"name": "NVIDIA L4", "memory_mib": 23034, "driver": "570.1"}],
        "versions": versions, "tests": [test], **changes,
    }  # fmt: skip
    folder = root / "contracts" / "audit" / "gpu_records"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return content


@pytest.mark.invariant("SPEC-021")
@pytest.mark.parametrize("workers", [(), ("-p", "xdist.plugin", "-n", "2", "--dist", "loadgroup")])
def test_a_run_of_the_tier_leaves_a_record(gpu_tree: Path, driver: Path, workers: tuple[str, ...]) -> None:
    tree = read_tree_id(gpu_tree)
    assert "record: .audit/gpu-record.json" in run_gpu(gpu_tree, *workers)
    record = record_of(gpu_tree)
    assert record["devices"] == [{"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559, "driver": "570.86.10"}]
    assert record["tree"] == tree and len(record["revision"]) == 40 and record["versions"]["torch"]
    tests = {test["node"].split("::")[1]: test for test in record["tests"]}
    assert {name: (test["outcome"], test["reason"]) for name, test in tests.items()} == {
        "test_fast[1]": ("passed", ""),
        "test_fast[2]": ("passed", ""),
        "test_two": ("skipped", "needs two GPUs"),
        "test_wrong": ("failed", "AssertionError: off by one"),
    }
    assert tests["test_fast[2]"]["numbers"] == [
        {"name": "speed", "value": 200.0, "unit": "tokens/s"},
        {"name": "memory", "value": 1.5, "unit": "GiB"},
    ]


@pytest.mark.invariant("SPEC-021")
@pytest.mark.parametrize("says", ["", "No devices were found", "NVIDIA H100, [N/A], 570"])
def test_without_a_device_that_answers_there_is_no_record(gpu_tree: Path, driver: Path, says: str) -> None:
    driver.write_text(says)
    assert read_devices() == ()
    assert "no record: no NVIDIA device answers" in run_gpu(gpu_tree)
    assert not (gpu_tree / ".audit" / "gpu-record.json").exists()


@pytest.mark.invariant("SPEC-021")
def test_files_that_change_meanwhile_leave_no_record(gpu_tree: Path, driver: Path) -> None:
    text = (
        "import pathlib\n\nimport pytest\n\n\n@pytest.mark.gpu\ndef test_it():\n    pathlib.Path('new.txt').touch()\n"
    )
    (gpu_tree / "tests" / "gpu" / "test_it.py").write_text(text)
    assert "its files changed while the tests ran" in run_gpu(gpu_tree)
    assert not (gpu_tree / ".audit" / "gpu-record.json").exists()


@pytest.mark.invariant("SPEC-021")
def test_several_devices_are_each_named_and_names_may_hold_commas(driver: Path) -> None:
    driver.write_text(f"{DRIVER}\nOdd, name, 1024, 1.0\n")
    assert read_devices() == (Device("NVIDIA H100 80GB HBM3", 81559, "570.86.10"), Device("Odd, name", 1024, "1.0"))


@pytest.mark.invariant("SPEC-021")
def test_a_number_that_is_none_fails_its_test(gpu_tree: Path, driver: Path) -> None:
    path = gpu_tree / "tests" / "gpu" / "test_it.py"
    path.write_text(TESTS.replace("100.0 * x", "float('nan')"))
    run_gpu(gpu_tree)
    assert {test["outcome"] for test in record_of(gpu_tree)["tests"] if "fast" in test["node"]} == {"failed"}


@pytest.mark.invariant("SPEC-022")
def test_an_accepted_record_is_shown_with_its_numbers_and_proves_what_passed(
    gpu_tree: Path, driver: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remark = "AUDIT-1.3: {kind: never-run, note: Never run on a GPU so far.}\n"
    (gpu_tree / "contracts" / "requirements" / "status.yaml").write_text(remark)
    run_gpu(gpu_tree)
    assert gpu_main([]) == 0
    assert "off by one" in capsys.readouterr().out
    assert gpu_main(["--accept"]) == 0
    (name,) = [path.name for path in (gpu_tree / "contracts" / "audit" / "gpu_records").iterdir()]
    assert name.endswith("-nvidia-h100-80gb-hbm3.json") and name[:2] == "20"
    assert gpu_main(["--accept"]) == 2
    assert "there is a record of this day and device" in capsys.readouterr().err
    commit(gpu_tree)
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 0
    report = report_of(gpu_tree)
    assert (report["gpu"]["record"]["passed"], report["gpu"]["record"]["of_this_tree"]) == (2, False)
    states = {row["node"].split("::")[1]: (row["state"], row["reason"]) for row in report["gpu"]["tests"]}
    day = report["gpu"]["record"]["date"][:10]
    assert states["test_fast"] == ("passed", f"passed on NVIDIA H100 80GB HBM3 on {day}")
    assert states["test_wrong"][0] == "failed"
    assert states["test_two"][1].startswith("never run on a GPU: skipped on NVIDIA H100 80GB HBM3")
    rows = {row["id"]: (row["status"], row["reason"]) for row in report["requirements"]}
    assert rows["AUDIT-1.3"] == ("done", f"TOY-003 passed on NVIDIA H100 80GB HBM3 on {day}")
    assert {row["id"]: row["state"] for row in report["invariants"]}["TOY-003"] == "not run", "nothing ran here"
    for kind in ("md", "html"):
        text = (gpu_tree / ".audit" / f"report.{kind}").read_text()
        assert "NVIDIA H100 80GB HBM3" in text and "speed 200.0 tokens/s" in text and name in text


@pytest.mark.invariant("SPEC-022", "SPEC-023")
def test_without_a_record_each_test_is_named_as_never_run(gpu_tree: Path) -> None:
    remark = "AUDIT-1.3: {kind: never-run, note: Never run on a GPU so far.}\n"
    (gpu_tree / "contracts" / "requirements" / "status.yaml").write_text(remark)
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 0
    report = report_of(gpu_tree)
    assert report["gpu"]["record"] is None
    expected = {
        "tests/gpu/test_it.py::test_fast": "never run on a GPU: not part of the contracts tier",
        "tests/gpu/test_it.py::test_two": "never run on a GPU: needs two GPUs",
        "tests/gpu/test_it.py::test_wrong": "never run on a GPU: not part of the contracts tier",
    }
    assert {row["node"]: row["reason"] for row in report["gpu"]["tests"]} == expected
    assert expected.items() <= {row["node"]: row["reason"] for row in report["not_run"]}.items()
    rows = {row["id"]: (row["status"], row["reason"]) for row in report["requirements"]}
    assert rows["AUDIT-1.3"] == ("not yet", "Never run on a GPU so far.")
    assert "nothing here was ever seen on a GPU" in (gpu_tree / ".audit" / "report.md").read_text()


@pytest.mark.invariant("SPEC-022", "SPEC-023")
def test_a_record_defends_an_invariant_only_with_all_of_its_tests(gpu_tree: Path) -> None:
    plant(gpu_tree, "old.json")
    failed = {"node": "tests/gpu/test_it.py::test_fast[2]", "outcome": "failed", "reason": "boom", "seconds": 1.0,
              "numbers": []}  # fmt: skip
    first = plant(gpu_tree, "old.json")["tests"][0]
    (record,) = load_records()
    assert passed_in([record], "tests/gpu/test_it.py::test_fast") is record
    plant(gpu_tree, "old.json", tests=[first, failed])
    (record,) = load_records()
    assert passed_in([record], "tests/gpu/test_it.py::test_fast") is None
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 0
    assert {row["id"]: row["status"] for row in report_of(gpu_tree)["requirements"]}["AUDIT-1.3"] == "not yet"
    newer = plant(gpu_tree, "new.json", date="2026-05-06T07:08:09+00:00", tests=[first | {"reason": ""}])
    assert [found.date for found in load_records()] == [newer["date"], record.date]
    text = (gpu_tree / "tests" / "gpu" / "test_it.py").read_text()
    more = text + '\n\n@pytest.mark.invariant("TOY-003")\ndef test_other(): ...\n'
    (gpu_tree / "tests" / "gpu" / "test_it.py").write_text(more)
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 0
    assert {row["id"]: row["status"] for row in report_of(gpu_tree)["requirements"]}["AUDIT-1.3"] == "not yet"
    (gpu_tree / "tests" / "gpu" / "test_it.py").write_text(text)
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 0
    report = report_of(gpu_tree)
    assert {row["id"]: row["status"] for row in report["requirements"]}["AUDIT-1.3"] == "done"
    assert report["gpu"]["record"]["file"] == "new.json"


@pytest.mark.invariant("SPEC-023")
def test_a_record_is_no_proof_for_an_invariant_of_another_tier(gpu_tree: Path) -> None:
    declared = gpu_tree / "contracts" / "invariants" / "toy.yaml"
    declared.write_text(declared.read_text().replace("tier: gpu", "tier: cpu"))
    plant(gpu_tree, "old.json")
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 1, "an invariant of the cpu tier that nothing proves here"
    assert {row["id"]: row["status"] for row in report_of(gpu_tree)["requirements"]}["AUDIT-1.3"] == "not yet"


@pytest.mark.invariant("SPEC-022")
def test_what_shows_nothing_is_not_accepted(gpu_tree: Path) -> None:
    with pytest.raises(RecordError, match="no record; run tox -e gpu on a machine with an NVIDIA GPU first"):
        accept(gpu_tree)
    assert gpu_main([]) == gpu_main(["--accept"]) == 2
    fresh = gpu_tree / ".audit" / "gpu-record.json"
    content = plant(gpu_tree, "old.json")
    skipped = content["tests"][0] | {"outcome": "skipped", "reason": "no GPU"}
    fresh.write_text(json.dumps(content | {"tests": [skipped]}))
    with pytest.raises(RecordError, match="none of its 1 tests passed"):
        accept(gpu_tree)
    fresh.write_text("{")
    with pytest.raises(RecordError, match="run tox -e gpu again"):
        accept(gpu_tree)
    fresh.write_text(json.dumps(content | {"devices": []}))
    with pytest.raises(ContractViolation):
        accept(gpu_tree)


@pytest.mark.invariant("SPEC-022")
def test_a_broken_record_stops_the_report(gpu_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(gpu_tree, "old.json", date="yesterday")
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 2
    assert "date" in capsys.readouterr().err


@pytest.mark.invariant("SPEC-022")
def test_skips_of_a_machine_without_a_gpu_are_no_runs(gpu_tree: Path) -> None:
    path = gpu_tree / "tests" / "gpu" / "test_it.py"
    skipped = "pytestmark = [pytest.mark.gpu, pytest.mark.skipif(True, reason='no NVIDIA GPU')]"
    path.write_text(TESTS.replace("pytestmark = pytest.mark.gpu", skipped))
    run_gpu(gpu_tree, "--report-log=.audit/gpu.jsonl")
    assert run_pytest(gpu_tree) == 0
    assert main(["--no-run"]) == 0
    report = report_of(gpu_tree)
    assert {row["state"] for row in report["gpu"]["tests"]} == {"never run"}
    listed = [row["node"] for row in report["not_run"] if "tests/gpu/" in row["node"]]
    assert listed == [f"tests/gpu/test_it.py::test_{name}" for name in ("fast", "two", "wrong")]
