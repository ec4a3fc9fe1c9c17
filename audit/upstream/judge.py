"""The verdict over a survey: drifts, each with what moved and who uses it, or the records to accept. Contract
ids: UP-*."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.upstream.calls import lost_keywords, refused_keywords
from audit.upstream.contract import Recorded
from audit.upstream.drift import changes, touched_parameters
from audit.upstream.moved import find_moved

if TYPE_CHECKING:
    from collections.abc import Collection

    from audit.upstream.describe import Record
    from audit.upstream.survey import Survey
    from audit.upstream.uses import Use

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Drift:
    """One symbol that is not as recorded: what changed, and the places that rely on it.

    `refused`: the project still needs what is gone, so it cannot be accepted.
    """

    package: str
    symbol: str
    changes: tuple[str, ...]
    users: tuple[str, ...] = ()
    refused: bool = False

    def __str__(self) -> str:
        lines = [self.symbol, *(f"  {change}" for change in self.changes), *(f"  <- {user}" for user in self.users)]
        return "\n".join(lines)


def find_drifts(survey: Survey) -> list[Drift]:
    """Everything in which contract, project and packages disagree, by package and symbol."""
    found = [
        Drift(name, name, (f"is not installed; install {_distributions(survey, name)}",), refused=True)
        for name in survey.missing_packages
    ]
    for name in survey.absent_now:
        reason = survey.watched.absent[name]
        found.append(
            Drift(survey.watched.package_of(name), name, (f"is there, and must not be: {reason}",), refused=True)
        )
    for package, recorded in survey.recorded.items():
        if package in survey.versions:
            found += _package_drifts(survey, package, recorded)
    found += _unrecorded(survey)
    return sorted(found, key=lambda drift: (drift.package, drift.symbol))


def build_records(survey: Survey) -> dict[str, Recorded]:
    """What `--accept` writes: the wanted symbols as they are installed; a package that is not here stays."""
    records = {name: entry for name, entry in survey.recorded.items() if name not in survey.versions}
    for package, (_, version) in survey.versions.items():
        symbols = {
            symbol: survey.current[symbol]
            for symbol in survey.wanted
            if survey.watched.package_of(symbol) == package and symbol in survey.current
        }
        if symbols:
            provider = next(p.distributions[0] for p in survey.watched.packages if p.name == package)
            records[package] = Recorded(package, provider, version, symbols)
    return records


def _package_drifts(survey: Survey, package: str, recorded: Recorded) -> Iterator[Drift]:
    version = survey.versions[package][1]
    if version != recorded.version:
        yield Drift(package, package, (f"version {recorded.version} became {version}",))
    for symbol, old in recorded.symbols.items():
        new = survey.current.get(symbol)
        users = survey.users(symbol)
        if symbol not in survey.wanted:
            yield Drift(package, symbol, ("is recorded, but nothing uses it any more",))
        elif new is None:
            refused = any(use.sure for use in users)
            yield Drift(package, symbol, (_removed(survey, symbol, old),), _places(users), refused)
        else:
            touched, lost = touched_parameters(old, new), lost_keywords(old, new)
            wrong = _misfits(symbol, new, users, touched)
            refused = bool(wrong) or any(lost & set(use.keywords) for use in users)
            if found := [*changes(old, new), *wrong]:
                yield Drift(package, symbol, tuple(found), _places(users, touched), refused)


def _removed(survey: Survey, symbol: str, old: Record) -> str:
    places = find_moved(survey.installed, symbol, old) if "/" not in symbol else []
    if places:
        return f"removed; its name is now at {' or '.join(places)}"
    return f"removed; nothing of that name is left in {survey.watched.package_of(symbol)}"


def _unrecorded(survey: Survey) -> Iterator[Drift]:
    known = {symbol for recorded in survey.recorded.values() for symbol in recorded.symbols}
    for symbol in survey.wanted:
        package = survey.watched.package_of(symbol)
        if symbol in known or package in survey.missing_packages:
            continue
        there = symbol in survey.current
        users = survey.users(symbol)
        wrong = _misfits(symbol, survey.current[symbol], users) if there else []
        words = "is used, but not recorded; accept it" if there else f"is used, but {package} has no such name"
        if package in survey.skipped:
            words = f"is used, but not recorded; accept it where {package} is installed"
        yield Drift(package, symbol, (words, *wrong), _places(users), bool(wrong) or not there)


def _misfits(symbol: str, record: Record, users: list[Use], told: Collection[str] = ()) -> list[str]:
    """Calls of the symbol itself that pass what it does not take, except names that another sentence tells."""
    texts = []
    for use in users:
        wrong = refused_keywords(record, use.keywords) if use.symbol == symbol else []
        names = [name for name in wrong if name not in told]
        if names:
            texts.append(f"passes {', '.join(names)}, which it does not take: {use.file}:{use.line}")
    return list(dict.fromkeys(texts))


def _places(users: list[Use], touched: Collection[str] = ()) -> tuple[str, ...]:
    texts = []
    for use in users:
        passed = [name for name in use.keywords if name in touched]
        texts.append(f"{use} and passes {', '.join(passed)}" if passed else str(use))
    unique = list(dict.fromkeys(texts))
    rest = len(unique) - _SHOWN
    return tuple(unique) if rest <= 0 else (*unique[:_SHOWN], f"and {rest} more places")


def _distributions(survey: Survey, name: str) -> str:
    package = next(package for package in survey.watched.packages if package.name == name)
    return " or ".join(package.distributions)
