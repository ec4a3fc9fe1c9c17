"""Pytest plugin: a run of tests/gpu/ on a machine with an NVIDIA device leaves `.audit/gpu-record.json`.

In, the reports of the tests and the numbers they give to the fixture `record_number`; out, a record as the contract
gpu-record describes it. Without a device, or where files changed meanwhile, none is written, and the summary says so.
SPEC-021.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from audit.gpu.device import read_devices
from audit.gpu.records import FRESH, write_record
from audit.results import without_group
from audit.tier import tier_of_file
from audit.tree import NotACheckoutError, read_tree_id
from coordexp.artifacts.provenance import read_git_state, read_versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROPERTY = "gpu_number"


@pytest.fixture
def record_number(request: pytest.FixtureRequest) -> Callable[[str, float, str], None]:
    """A function (name, value, unit) that puts a measured number into the record of the run."""

    def record(name: str, value: float, unit: str) -> None:
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is no number to record")
        request.node.user_properties.append((PROPERTY, {"name": name, "value": float(value), "unit": unit}))

    return record


def pytest_configure(config: pytest.Config) -> None:
    """Record in the process that sees all reports: not in a worker of xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(config.rootpath), "gpu-recorder")


class _Recorder:
    """Collects the outcomes of tests/gpu/ and writes the record when the session ends."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tests: dict[str, dict[str, Any]] = {}
        self._tree = ""
        self._note = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note the tree that the first test of the tier begins with."""
        if not self._tests and not self._tree and tier_of_file(nodeid) == "gpu":
            self._tree = _tree(self._root)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one phase of a test: a failure wins, then a skip."""
        node = without_group(report.nodeid)
        if tier_of_file(node) != "gpu":
            return
        entry = {"node": node, "outcome": "passed", "reason": "", "seconds": 0.0, "numbers": []}
        test = self._tests.setdefault(node, entry)
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        test["numbers"] = [value for name, value in report.user_properties if name == PROPERTY]
        if report.outcome != "passed" and test["outcome"] != "failed":
            test["outcome"], test["reason"] = report.outcome, _reason(report)

    def pytest_sessionfinish(self) -> None:
        """Write the record, or note why there is none."""
        if not self._tests:
            return
        devices = read_devices()
        state = read_git_state(self._root)
        if not devices:
            self._note = "no record: no NVIDIA device answers on this machine"
        elif not self._tree or self._tree != _tree(self._root):
            self._note = "no record: this is no git checkout, or its files changed while the tests ran"
        elif state.revision is None:
            self._note = "no record: nothing is committed here, so there is no revision to name"
        else:
            content = {
                "schema_version": 1,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "devices": [asdict(device) for device in devices],
                "versions": read_versions(),
                "revision": state.revision,
                "tree": self._tree,
                "tests": list(self._tests.values()),
            }
            path = self._root / FRESH
            path.parent.mkdir(exist_ok=True)
            write_record(path, content)
            self._note = f"record: {FRESH}; python -m audit.gpu shows it, --accept copies it for committing"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the record is, or why there is none."""
        if self._note:
            terminalreporter.write_line(self._note)


def _tree(root: Path) -> str:
    try:
        return read_tree_id(root)
    except NotACheckoutError:
        return ""


def _reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, or the first line of how it failed."""
    detail = report.longrepr
    if isinstance(detail, tuple):
        return str(detail[2]).removeprefix("Skipped: ")
    crash = getattr(detail, "reprcrash", None)
    text = str(crash.message if crash is not None else detail or report.outcome)
    return text.strip().split("\n", 1)[0] or report.outcome
