"""Pytest plugin: writes what the audit reads into the report log, and the tree it belongs to beside it.

Each test's report carries its invariant ids as the user property `invariants`, also under xdist. With `--report-log=F`,
`F.tree.json` (tree before and after the run, arguments, package versions), `F.total` (number of tests) and
`F.tests.json` (which were collected, how many were left out) appear. `--invariant ID` selects.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audit.tree import NotACheckoutError, read_tree_id
from coordexp.artifacts.provenance import read_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROPERTY = "invariants"
_LEFT_OUT: pytest.StashKey[int] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--invariant`."""
    group = parser.getgroup("audit")
    group.addoption("--invariant", action="append", default=[], metavar="ID", help="run only tests of this invariant")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker and note the tree that the run begins with."""
    config.addinivalue_line("markers", "invariant(*ids): the facts of contracts/invariants/ that the test checks")
    log = _log_path(config)
    if log is not None and not _is_worker(config):
        log.parent.mkdir(parents=True, exist_ok=True)
        _write_tree(config, log, finished=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Attach the ids of each test, then keep the selected ones."""
    for item in items:
        ids = dict.fromkeys(str(arg) for mark in item.iter_markers("invariant") for arg in mark.args)
        if ids:
            item.user_properties.append((PROPERTY, list(ids)))
    wanted = set(config.getoption("--invariant"))
    if wanted:
        kept = [item for item in items if wanted & set(_ids_of(item))]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what `-k`, `-m`, `--deselect` or a plugin leaves out."""
    for item in items:
        item.config.stash[_LEFT_OUT] = item.config.stash.get(_LEFT_OUT, 0) + 1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell a watching process how many tests there are, and the audit which."""
    log = _log_path(session.config)
    if log is not None and session.items:
        log.with_name(log.name + ".total").write_text(str(len(session.items)))
        nodes = [item.nodeid for item in session.items]
        _write_whole(log, "tests", {"nodes": nodes, "left_out": session.config.stash.get(_LEFT_OUT, 0)})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Note the tree that the run ended with."""
    log = _log_path(session.config)
    if log is not None and not _is_worker(session.config):
        _write_tree(session.config, log, finished=True)


def _ids_of(item: pytest.Item) -> list[str]:
    return [str(i) for name, ids in item.user_properties if name == PROPERTY and isinstance(ids, list) for i in ids]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _log_path(config: pytest.Config) -> Path | None:
    given = config.getoption("report_log", default=None)
    return Path(str(given)).resolve() if given else None


def _write_tree(config: pytest.Config, log: Path, finished: bool) -> None:
    sidecar = log.with_name(log.name + ".tree.json")
    content: dict[str, object] = {
        "before": "",
        "after": "",
        # The variable can leave out tests as well as the command line can.
        "arguments": [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)],
        "versions": read_versions(),
    }
    try:
        tree = read_tree_id(config.rootpath)
    except NotACheckoutError:
        # Without a tree the audit calls the results stale; the tests themselves are not hindered.
        _write_whole(log, "tree", content)
        return
    content["before"] = json.loads(sidecar.read_text())["before"] if finished else tree
    content["after"] = tree if finished else ""
    _write_whole(log, "tree", content)


def _write_whole(log: Path, kind: str, content: Mapping[str, object]) -> None:
    """Write a file beside the log that is never half there; workers write the same one."""
    target = log.with_name(f"{log.name}.{kind}.json")
    part = target.with_name(f"{target.name}.{os.getpid()}")
    part.write_text(json.dumps(content))
    part.replace(target)
