"""The rules by name, with the folders each holds for. A checkout in, its violations out. POLICY-001 to POLICY-016."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from audit.policy import boundaries, environment, failures, limits, loss_home, names, parsers, startup, thousand
from audit.policy.source import read_sources
from coordexp.spec import check, contract_path, read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from audit.policy.source import SourceFile, Violation

    Find = Callable[[SourceFile], Iterable[Violation]]

RUNTIME = ("coordexp",)
LIBRARY = ("coordexp", "audit")
EVERYTHING = ("coordexp", "audit", "benchmarks", "scripts", "tests")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what finds its violations in a module, and the folders it holds for."""

    find: Find
    folders: tuple[str, ...]


RULES: dict[str, Rule] = {
    "long_modules": Rule(limits.long_modules, EVERYTHING),
    "long_definitions": Rule(limits.long_definitions, EVERYTHING),
    "branchy_functions": Rule(limits.branchy_functions, EVERYTHING),
    "crowded_signatures": Rule(limits.crowded_signatures, EVERYTHING),
    "swallowed_errors": Rule(failures.swallowed_errors, LIBRARY),
    "tests_that_cannot_fail": Rule(failures.tests_that_cannot_fail, ("tests",)),
    "upward_imports": Rule(names.upward_imports, RUNTIME),
    "heavy_imports": Rule(startup.heavy_imports, RUNTIME),
    "network_at_import": Rule(startup.network_at_import, LIBRARY),
    "private_names": Rule(names.private_names, EVERYTHING),
    "grab_bags": Rule(names.grab_bags, EVERYTHING),
    "prints": Rule(boundaries.prints, LIBRARY),
    "unfinished_marks": Rule(boundaries.unfinished_marks, EVERYTHING),
    "json_outside_boundary": Rule(parsers.json_outside_boundary, RUNTIME),
    "divisions_by_thousand": Rule(thousand.divisions_by_thousand, EVERYTHING),
    "loss_arithmetic": Rule(loss_home.loss_arithmetic, RUNTIME),
    "config_lookups": Rule(boundaries.config_lookups, LIBRARY),
    "open_bucket_reads": Rule(boundaries.bucket_reads, RUNTIME),
    "unsafe_loaders": Rule(parsers.unsafe_loaders, ("coordexp", "audit", "benchmarks", "scripts")),
    "undocumented_environment": Rule(environment.undocumented_environment, LIBRARY),
    "undeclared_flags": Rule(boundaries.undeclared_flags, RUNTIME),
}


def documented_variables() -> frozenset[str]:
    """Names of the environment variables in contracts/cli/environment.yaml."""
    content = check("environment", read_yaml(contract_path("cli/environment.yaml")))
    return frozenset(row["name"] for row in content["variables"])


def declared_flags() -> dict[str, frozenset[str]]:
    """Path of an entry point -> its options, from contracts/cli/flags.yaml."""
    content = check("flags", read_yaml(contract_path("cli/flags.yaml")))
    return {f"coordexp/entrypoints/{name}.py": frozenset(flags) for name, flags in content["entrypoints"].items()}


def with_context(name: str, sources: list[SourceFile]) -> Find:
    """A rule's finder, bound to what it has to know beyond one module."""
    if name == "divisions_by_thousand":
        return partial(thousand.divisions_by_thousand, names=thousand.names_of_thousand(sources))
    if name == "private_names":
        own = [source for source in sources if not source.is_test]
        return partial(names.private_names, others=frozenset().union(*map(names.private_definitions, own)))
    if name == "swallowed_errors":
        return partial(failures.swallowed_errors, elsewhere=failures.broad_names(sources))
    if name == "undocumented_environment":
        return partial(environment.undocumented_environment, documented=documented_variables())
    if name == "undeclared_flags":
        declared = declared_flags()
        return lambda source: boundaries.undeclared_flags(source, declared.get(source.path, frozenset()))
    return RULES[name].find


def violations_of(name: str, root: Path) -> list[Violation]:
    """Every violation of a rule in a checkout, sorted. Raises KeyError for an unknown rule."""
    sources = read_sources(root, RULES[name].folders)
    find = with_context(name, sources)
    return sorted(violation for source in sources for violation in find(source))
