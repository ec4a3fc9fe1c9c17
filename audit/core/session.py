"""Pytest plugin of the core mutation run; in, a session in mutmut's folder `mutants/`; out, `kills.jsonl` in it.

Nothing that was computed without the mutant is reused, no test takes more than its share of CPU time or memory, and
the failing test is written down: only a failing test kills.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from mutmut.configuration import config
from mutmut.mutation.trampoline import get_mutant_under_test

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

KILLS_FILE = "kills.jsonl"
CPU_SETTING = "core_cpu_seconds"
MEMORY_BYTES = 3 << 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the limit of a test. It is CPU time, so a busy machine changes no verdict."""
    parser.addini(CPU_SETTING, "CPU seconds of one test of the core mutation run", default="20")


def pytest_sessionstart() -> None:
    """Forget what ran before the fork, and bound what a mutant may allocate."""
    forget_cached_results()
    if mutant_name():
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the tests that killed other mutants of the same function; all of them still run on a survivor."""
    function = mutant_name().partition("__mutmut_")[0]
    if function:
        kills = Counter(row["test"] for row in read_kills(config.rootpath) if row["mutant"].startswith(f"{function}__"))
        items.sort(key=lambda item: -kills[item.nodeid])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under a mutant, start the test's CPU clock, whose SIGPROF ends the process; for coverage, cache nothing."""
    if get_mutant_under_test() == "stats":
        forget_cached_results()
    if mutant_name():
        signal.setitimer(signal.ITIMER_PROF, float(item.config.getini(CPU_SETTING)))


def pytest_sessionfinish() -> None:
    """Stop the clock."""
    signal.setitimer(signal.ITIMER_PROF, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down which test failed under which mutant."""
    report = yield
    name = mutant_name()
    if name and report.failed:
        with (item.config.rootpath / KILLS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"mutant": name, "test": item.nodeid}) + "\n")
    return report


def read_kills(folder: Path) -> list[dict[str, str]]:
    """The failing tests that were written down in mutmut's folder: `mutant` and `test` of each."""
    path = folder / KILLS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def mutant_name() -> str:
    """The mutant that is active, or an empty string while none is."""
    name = get_mutant_under_test()
    return name if "__mutmut_" in name else ""


def forget_cached_results() -> None:
    """Empty every `functools` cache of the packages that are mutated."""
    packages = {path.parts[0] for path in config().source_paths}
    for name, module in list(sys.modules.items()):
        if name.split(".", 1)[0] in packages:
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
