"""The files of `contracts/upstream/`: what was recorded, one file a package, and what is watched, written by hand.

Read through their schemas and written so that the same content is the same text. Contract ids: UP-*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import yaml

from audit.upstream.describe import Record
from coordexp.spec import check, read_yaml

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "upstream"
_WATCHED = "watched.yaml"
_HEAD = "# Written by `python -m audit.upstream --accept`; not by hand. What is watched beside it: watched.yaml.\n"
_BARE_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Package:
    """An import package under contract: who provides it, and why it may be missing ("" where it may not)."""

    name: str
    distributions: tuple[str, ...]
    optional: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Symbols that the source does not spell out, why the project depends on them, and where it does."""

    symbols: tuple[str, ...]
    why: str
    used_by: tuple[str, ...]
    record: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """The hand-written part: packages, watched symbols, and names that must stay absent, with the reason."""

    packages: tuple[Package, ...]
    watches: tuple[Watch, ...]
    absent: Mapping[str, str]

    def extras(self, symbol: str) -> tuple[str, ...]:
        """What is recorded of the symbol beyond its signature."""
        extras = (extra for watch in self.watches if symbol in watch.symbols for extra in watch.record)
        return tuple(dict.fromkeys(extras))

    def package_of(self, symbol: str) -> str:
        """Import package of a dotted name or of a file `package/…`."""
        return symbol.split("/" if "/" in symbol else ".")[0]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one distribution offered when it was accepted."""

    package: str
    distribution: str
    version: str
    symbols: Mapping[str, Record] = field(default_factory=dict)


def read_watched(contracts: Path) -> Watched:
    """`upstream/watched.yaml` below the contracts folder."""
    content = check("upstream/watched", read_yaml(contracts / FOLDER / _WATCHED))
    packages = (
        Package(name, tuple(entry["distributions"]), entry.get("optional", ""))
        for name, entry in content["packages"].items()
    )
    watches = (
        Watch(_spelt(entry), entry["why"], tuple(entry["used_by"]), tuple(entry.get("record", ())))
        for entry in content["watches"]
    )
    return Watched(tuple(packages), tuple(watches), dict(content["absent"]))


def read_recorded(contracts: Path, package: Package) -> Recorded | None:
    """What was accepted of a package, or None where nothing was."""
    path = _path(contracts, package)
    if not path.is_file():
        return None
    content = check("upstream/recorded", read_yaml(path))
    return Recorded(content["package"], content["distribution"], content["version"], content["symbols"])


def write_recorded(contracts: Path, package: Package, recorded: Recorded) -> Path:
    """Write the file of a package; symbols are sorted."""
    content: dict[str, Any] = {
        "package": recorded.package,
        "distribution": recorded.distribution,
        "version": recorded.version,
        "symbols": {name: cast("dict[str, Any]", recorded.symbols[name]) for name in sorted(recorded.symbols)},
    }
    path = _path(contracts, package)
    path.write_text(_HEAD + render(check("upstream/recorded", content)), encoding="utf-8")
    return path


def drop_recorded(contracts: Path, package: Package) -> Path:
    """Delete the file of a package of which nothing is used any more."""
    path = _path(contracts, package)
    path.unlink()
    return path


def render(content: Mapping[str, Any]) -> str:
    """YAML with one line for each record that fits a line."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_BARE_LENGTH)


def _spelt(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The symbols of a group in full; `of` stands before each."""
    before = f"{entry['of']}." if "of" in entry else ""
    return tuple(f"{before}{name}" for name in entry["symbols"])


def _path(contracts: Path, package: Package) -> Path:
    return contracts / FOLDER / f"{package.distributions[0]}.yaml"


class _Dumper(yaml.SafeDumper):
    """Block style; a list item stays on its line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def names_of(watches: Sequence[Watch]) -> tuple[str, ...]:
    """Every watched symbol, once."""
    return tuple(dict.fromkeys(symbol for watch in watches for symbol in watch.symbols))
