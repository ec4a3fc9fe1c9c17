"""Follows dotted names through upstream modules: in, `transformers.Trainer.train`; out, where that is defined.

Goes the way Python does: re-exports, star imports, submodules, and base classes across packages. Contract ids: UP-*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.upstream.installed import Installed

_LAZY, _FAST = "transformers", "TokenizerFast"
Definition = griffe.Module | griffe.Class | griffe.Function | griffe.Attribute
Node = Definition | griffe.Alias  # an alias only where it leads out of the packages, into the standard library say


@dataclass(frozen=True)
class Found:
    """A definition: its dotted place, its node, and its overloads where the stub writes several."""

    place: str
    node: Node
    overloads: tuple[griffe.Function, ...] = ()


@dataclass(frozen=True)
class Reached:
    """How far a dotted name leads: `symbol` is the part up to the first value that is no module and no class.

    `found` is None where the last part of `symbol` does not exist.
    """

    symbol: str
    found: Found | None


class Lookup:
    """Names of the packages of `installed`."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed
        self._names: dict[tuple[str, str], Found | None] = {}
        self._lines: dict[str, tuple[Found, ...]] = {}

    def reach(self, dotted: str) -> Reached:
        """Follow a dotted name part by part."""
        parts = dotted.split(".")
        found = self._module(parts[0])
        for number, name in enumerate(parts[1:], start=2):
            if found is None or not isinstance(found.node, griffe.Module | griffe.Class):
                return Reached(".".join(parts[: number - 1]), found)
            found = self._inside(found, name)
        return Reached(dotted, found)

    def find(self, dotted: str) -> Found | None:
        """What the whole name stands for, or None."""
        reached = self.reach(dotted)
        return reached.found if reached.symbol == dotted else None

    def line_of(self, found: Found) -> tuple[Found, ...]:
        """A class and its bases in method resolution order, as far as the bases are upstream's own."""
        if found.place not in self._lines:
            self._lines[found.place] = (found,)  # ends a cycle of a broken package
            linear = [found, *(entry for base in self.bases(found) for entry in self.line_of(base))]
            last = {entry.place: number for number, entry in enumerate(linear)}
            kept = (entry for number, entry in enumerate(linear) if last[entry.place] == number)
            self._lines[found.place] = tuple(kept)
        return self._lines[found.place]

    def bases(self, found: Found) -> Iterator[Found]:
        """The direct bases of a class that lie in a package on disk."""
        for text in base_texts(found):
            base = self.in_scope(found, text)
            if base is not None and isinstance(base.node, griffe.Class):
                yield base

    def in_scope(self, found: Found, text: str) -> Found | None:
        """What a dotted name means in the module that defines `found`."""
        head, _, rest = text.partition(".")
        start = self._in_module(found.node.module.path, head)
        for name in rest.split(".") if rest else ():
            start = self._inside(start, name) if start else None
        return start

    def _inside(self, found: Found, name: str) -> Found | None:
        if isinstance(found.node, griffe.Module):
            return self._in_module(found.place, name)
        if isinstance(found.node, griffe.Alias):
            return Found(f"{found.place}.{name}", found.node)
        for owner in self.line_of(found):
            assert isinstance(owner.node, griffe.Class)
            here = self._own(owner.node, owner.place, name)
            if here is not None:
                return here
        return None

    def _in_module(self, module: str, name: str) -> Found | None:
        key = (module, name)
        if key not in self._names:
            self._names[key] = None  # ends a circle of imports
            self._names[key] = self._named(module, name)
        return self._names[key]

    def _named(self, module: str, name: str) -> Found | None:
        """In the source, in the stub where the source only assigns something compiled, as a submodule, or starred."""
        places = [self._own(node, module, name) for node in self.installed.modules(module)]
        here = [found for found in places if found is not None]
        spelt = [found for found in here if not isinstance(found.node, griffe.Attribute)]
        if here:
            return (spelt or here)[0]
        return self._module(f"{module}.{name}") or self._starred(module, name)

    def _own(self, owner: griffe.Module | griffe.Class, place: str, name: str) -> Found | None:
        member = owner.members.get(name)
        overloads = tuple(owner.overloads.get(name) or ())
        if isinstance(member, griffe.Alias):
            target = member.target_path
            if self.installed.folder(target.split(".")[0]) is None:
                return Found(target, member)
            return None if target == f"{place}.{name}" else self._imported(target)
        if isinstance(member, griffe.Attribute) and isinstance(member.value, griffe.ExprName):
            renamed = self.in_scope(Found(place, owner), str(member.value)) if str(member.value) != name else None
            if renamed is not None and isinstance(renamed.node, griffe.Class | griffe.Function):
                return renamed
        if member is None and overloads:
            return Found(f"{place}.{name}", overloads[0], overloads)
        return Found(f"{place}.{name}", member, overloads) if isinstance(member, Definition) else None

    def _imported(self, target: str) -> Found | None:
        """What `from module import name` binds: the module's own name before a submodule of its package."""
        module, _, name = target.rpartition(".")
        return self._in_module(module, name) if self.installed.modules(module) else self.find(target)

    def _starred(self, module: str, name: str) -> Found | None:
        """The name through `from x import *`; modules whose own name is part of it are asked first.

        transformers answers for `XTokenizerFast` with `XTokenizer` where only that exists.
        """
        stars = [
            member.target_path
            for node in self.installed.modules(module)
            for member in node.members.values()
            if isinstance(member, griffe.Alias) and member.wildcard
        ]
        stars = [] if name.startswith("_") else sorted(stars, key=lambda target: -_likeness(target, name))
        likely = [target for target in stars if _likeness(target, name)]
        slow = name.removesuffix("Fast") if name.endswith(_FAST) and module.split(".")[0] == _LAZY else ""
        tries = [(likely, name), (likely, slow), (stars[len(likely) :], name)]
        for targets, wanted in tries:
            for target in targets if wanted else ():
                if self.installed.mentions(target, wanted):
                    found = self._in_module(target, wanted)
                    if found is not None:
                        return found
        return None

    def _module(self, dotted: str) -> Found | None:
        nodes = self.installed.modules(dotted)
        return Found(dotted, nodes[0]) if nodes else None


def base_texts(found: Found) -> list[str]:
    """The bases of a class as written, without type arguments."""
    bases = found.node.bases if isinstance(found.node, griffe.Class) else []
    return [str(base).partition("[")[0] for base in bases]


def _likeness(module: str, name: str) -> int:
    stem = module.rpartition(".")[2].replace("_", "")
    return len(stem) if stem in name.lower() else 0
