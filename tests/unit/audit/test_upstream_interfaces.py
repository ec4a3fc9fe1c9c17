"""What an interface asks of those who fill it: coroutines, abstract methods, enum members, type aliases."""

from __future__ import annotations

import pytest

from tests.unit.audit.upstream_fake import WATCHED, Fake, build_fake

PLUGINS = """
import abc
import enum
from abc import ABC, abstractmethod

from .core import cut

Added = tuple[int, str, list[int]]
Removed = int


class Move(enum.Enum):
    _ignore_ = []
    ONE = enum.auto()
    SWAP = enum.auto()

    def turned(self):
        return self


class Root(ABC):
    @abstractmethod
    def start(self):
        raise NotImplementedError

    @abc.abstractmethod
    def apply(self, logits):
        raise NotImplementedError


class Plugin(Root):
    def start(self):
        pass

    @property
    @abstractmethod
    def name(self):
        raise NotImplementedError

    def reset(self):
        pass

    async def close(self):
        pass
"""
NAMES = ["Added", "Removed", "Move", "Root", "Plugin", "Plugin.apply", "Plugin.close"]
ABSTRACT = "abstract methods were apply, name"
FILE = "site/upstream/plugins.py"


@pytest.fixture
def fake(tmp_path, console) -> Fake:
    """The package with a plugin interface, as accepted."""
    built = build_fake(tmp_path)
    built.write(FILE, PLUGINS)
    watch = {"why": "the plugin fills this in", "used_by": ["coordexp/ours.py"], "of": "upstream.plugins"}
    built.watch(watches=[*WATCHED["watches"], watch | {"symbols": NAMES}])
    assert built.accept(console) == 0
    assert built.texts() == []
    return built


@pytest.mark.invariant("UP-002")
@pytest.mark.parametrize(
    ("old", "new", "symbol", "change"),
    [
        ("def apply", "async def apply", "Plugin.apply", "was a plain function, is a coroutine (async def)"),
        ("async def close", "def close", "Plugin.close", "was a coroutine (async def), is a plain function"),
        ("    def reset", "    @abstractmethod\n    def reset", "Plugin", f"{ABSTRACT}, are apply, name, reset"),
        ("    @abc.abstractmethod\n", "", "Plugin", f"{ABSTRACT}, are name"),
        ("    @abc.abstractmethod\n", "", "Root", "abstract methods were apply, start, are start"),
        ("    SWAP =", "    TURN =", "Move", "member SWAP removed"),
        ("    SWAP =", "    TURN =", "Move", "member TURN added: enum.auto()"),
        ("SWAP = enum.auto()", "SWAP = 7", "Move", "member SWAP was enum.auto(), is 7"),
        ("int, str, list", "str, int, list", "Added", "was tuple[int, str, list[int]], is tuple[str, int, list[int]]"),
        ("Removed = int", "Removed = str", "Removed", "was int, is str"),
        ("Removed = int", "Removed = cut", "Removed", "kind: was constant, is function"),
    ],
)  # fmt: skip
def test_a_changed_interface_is_a_drift(fake, old, new, symbol, change):
    fake.edit(FILE, old, new)
    assert change in {drift.symbol: drift.changes for drift in fake.drifts()}[f"upstream.plugins.{symbol}"]


@pytest.mark.invariant("UP-002")
def test_a_method_that_is_filled_in_below_is_not_abstract(fake):
    assert "abstract:\n      - apply\n      - name\n" in fake.recorded()
    assert "abstract:\n      - apply\n      - start\n" in fake.recorded()


@pytest.mark.invariant("UP-002")
def test_methods_and_private_names_of_an_enum_are_no_members(fake):
    assert "members:\n      ONE: enum.auto()\n      SWAP: enum.auto()\n" in fake.recorded()
