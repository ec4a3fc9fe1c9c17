"""Contracts, project and installed packages side by side: what is wanted, what there is, who uses it. Contract
ids: UP-*."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.symbols import UnknownSymbolError, find_symbol
from audit.upstream.contract import Recorded, Watched, names_of, read_recorded, read_watched
from audit.upstream.describe import Record, describe, describe_file
from audit.upstream.heirs import find_inherited_uses
from audit.upstream.installed import Installed
from audit.upstream.lookup import Lookup
from audit.upstream.uses import Use, find_uses, read_project

_OPEN_KINDS = ("module", "class")
Track = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class Survey:
    """One look at all three sides.

    `wanted`: uses by the symbol that stands for them; `current`: records of what is installed now; `versions`: name and
    version of the installed distributions; `absent_now`: names that must be absent and are there; `skipped`: packages
    that are not installed and need not be, with the reason.
    """

    root: Path
    watched: Watched
    recorded: Mapping[str, Recorded]
    wanted: Mapping[str, tuple[Use, ...]]
    current: Mapping[str, Record]
    versions: Mapping[str, tuple[str, str]]
    absent_now: tuple[str, ...]
    skipped: Mapping[str, str]
    installed: Installed

    @property
    def missing_packages(self) -> list[str]:
        """Packages that are wanted, neither installed nor optional."""
        wanted = {self.watched.package_of(symbol) for symbol in self.wanted}
        return [name for name in sorted(wanted) if name not in self.versions and name not in self.skipped]

    def users(self, symbol: str) -> list[Use]:
        """Places that use a symbol, the watched ones last."""
        watches = [watch for watch in self.watched.watches if symbol in watch.symbols]
        watching = [_place(self.root, entry, watch.why) for watch in watches for entry in watch.used_by]
        return [*self.wanted.get(symbol, ()), *watching]


def survey(root: Path, contracts: Path, installed: Installed, track: Track = iter) -> Survey:
    """Read everything once; `track` sees the wanted symbols go by."""
    watched = read_watched(contracts)
    lookup = Lookup(installed)
    names = [package.name for package in watched.packages]
    recorded = {
        package.name: found for package in watched.packages if (found := read_recorded(contracts, package)) is not None
    }
    versions = {
        package.name: version
        for package in watched.packages
        if installed.folder(package.name) and (version := installed.version(package.distributions)) is not None
    }
    skipped = {p.name: p.optional for p in watched.packages if p.name not in versions and p.optional}
    known = {symbol: record for entry in recorded.values() for symbol, record in entry.symbols.items()}
    sources = read_project(root)
    uses = [*find_uses(sources, names), *find_inherited_uses(sources, names)]
    wanted = _wanted(uses, known, lookup, set(versions))
    wanted |= {symbol: wanted.get(symbol, ()) for symbol in names_of(watched.watches)}
    current = {}
    for symbol in track(sorted({*wanted, *known})):
        record = _record(lookup, symbol, watched.extras(symbol))
        if record is not None:
            beyond = record["kind"] == "import" and watched.package_of(record["lives"]) in skipped
            current[symbol] = known.get(symbol, record) if beyond else record
    absent_now = tuple(name for name in watched.absent if lookup.find(name) is not None)
    return Survey(root, watched, recorded, wanted, current, versions, absent_now, skipped, installed)


def covering(known: Mapping[str, Record], symbol: str) -> str | None:
    """The recorded symbol that stands for a dotted name: itself, or a value that the name only reaches into."""
    if symbol in known:
        return symbol
    parts = symbol.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts) - 1, 1, -1))
    return next((p for p in prefixes if p in known and known[p]["kind"] not in _OPEN_KINDS), None)


def _wanted(
    uses: Iterable[Use], known: Mapping[str, Record], lookup: Lookup, present: set[str]
) -> dict[str, tuple[Use, ...]]:
    """Uses by the symbol that a contract has to record; a method that upstream lacks is the project's own."""
    groups: dict[str, list[Use]] = {}
    for use in uses:
        reached = lookup.reach(use.symbol)
        if reached.found is not None and (use.sure or reached.symbol == use.symbol):
            symbol: str | None = reached.symbol
        else:
            fallback = reached.symbol if use.symbol.split(".")[0] in present else use.symbol
            symbol = covering(known, use.symbol) or (fallback if use.sure else None)
        if symbol is not None:
            groups.setdefault(symbol, []).append(use)
    return {symbol: tuple(found) for symbol, found in groups.items()}


def _record(lookup: Lookup, symbol: str, extras: tuple[str, ...]) -> Record | None:
    if "/" in symbol:
        package, _, inner = symbol.partition("/")
        folder = lookup.installed.folder(package)
        return describe_file(folder / inner) if folder and (folder / inner).is_file() else None
    found = lookup.find(symbol)
    return None if found is None else describe(lookup, symbol, found, extras)


def _place(root: Path, entry: str, why: str) -> Use:
    """A `used_by` entry as a use: `module:name` is looked up in the project, anything else is a path."""
    if ":" in entry:
        place = find_symbol(root, entry)
        return Use(entry, place.file, place.line, f"relies on it: {why}")
    if not (root / entry).exists():
        raise UnknownSymbolError(f"{entry}: no such file")
    return Use(entry, entry, 1, f"relies on it: {why}")
