"""A pytest plugin (`-p audit.tier --tier server`): run tests/<tier>/, and say so plainly when there are none.

pytest exits 5 when nothing is collected; a tier without tests is not a failure, and neither may it look like a success
that ran something. A tier whose tests were all deselected by other options still exits 5. With `--dist loadgroup`
tests of one `xdist_group` share a worker. POLICY-023, POLICY-041.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from xdist.remote import Producer

    from audit.groups import GroupScheduling

TIERS = ("server", "gpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--tier`."""
    parser.addoption("--tier", choices=TIERS, required=True, help="run only the tests that carry this marker")


def files_of(root: Path, tier: str) -> list[Path]:
    """The test files of a tier's folder, tests/<tier>/."""
    return sorted((root / "tests" / tier).rglob("test_*.py"))


def tier_of_file(node: str) -> str:
    """The tier in whose folder a test lies, from its node id or path; empty for those of the contracts tier."""
    return next((tier for tier in TIERS if node.startswith(f"tests/{tier}/")), "")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what is neither in the tier's folder nor on the way to it: other tests need not even be imported."""
    folder = config.rootpath / "tests" / str(config.getoption("tier"))
    on_the_way = collection_path == folder or collection_path in folder.parents or folder in collection_path.parents
    return None if on_the_way else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the items that carry the tier's marker."""
    tier = config.getoption("tier")
    chosen = [item for item in items if item.get_closest_marker(tier)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn "nothing collected" into success where the tier has no test file."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and not files_of(session.config.rootpath, tier_of(session)):
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling | None:
    """Our own scheduler for `--dist loadgroup`; `audit.groups` says why."""
    if config.getoption("dist") != "loadgroup":
        return None
    # Only where xdist is at work: this module is read without pytest too.
    from audit.groups import GroupScheduling

    # Without the session's own log, xdist's scheduler would print what it thinks.
    return GroupScheduling(config, log)


def tier_of(session: pytest.Session) -> str:
    """The tier this session runs."""
    return str(session.config.getoption("tier"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that a tier has no tests."""
    tier = str(config.getoption("tier"))
    if not files_of(config.rootpath, tier):
        terminalreporter.write_line(f"the {tier} tier has no tests: tests/{tier}/ holds no test_*.py; nothing was run")
