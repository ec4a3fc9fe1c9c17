"""Names that documents write out of the contracts: config keys, metrics, invariants, requirements. POLICY-015.

A line or a piece of code in, complaints about what no contract has out.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import TYPE_CHECKING

import yaml

from coordexp.config.problems import nearest_match, render_path
from coordexp.config.rules import Rule, build_rule
from coordexp.config.validate import find_faults
from coordexp.metrics.table import read_metric_table
from coordexp.spec import load_invariants, load_requirements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MODULES = {
    name: build_rule(f"coordexp:losses/{name}")
    for kind in ("objective", "diagnostic")
    for name in (build_rule(f"coordexp:config/pipeline.{kind}").properties or {})["name"].enum or ()
}
"""The rule of each loss module's own keys."""
SECTIONS = {name: rule for name, rule in (build_rule().properties or {}).items() if "object" in rule.names}
FILES = re.compile(r"\.(jsonl?|ya?ml|safetensors|md|py|txt|log|png|html|sh|pt|bin)$")
LONE = re.compile(r"\A([a-z]\w*)(?:: ?|=)([\w.+-]+)\Z")
"""A key and its value, and nothing else."""
METRIC = re.compile(r"(?<![\w./<-])([a-z]\w*(?:/[\w<>*]+)+)(?![\w./-])")
INVARIANT = re.compile(r"(?<![\w-])([A-Z]+-\d{3})(?![\w-])")
REQUIREMENT = re.compile(r"(?<![\w-])((?:AUDIT|REG|CFG|REP)-\d+[A-Z]?\.\d+[A-Z]?)(?![\w-])")
KEPT = {"rollout", "stage2_ab", "acc"}
"""First parts that only metrics have, whether there is one yet or not."""
FOLDERS = ("data", "packing", "eval", "progress")
"""First parts of metric names that folders have too: such a name is one when nothing stands beside it."""
MIGRATION = "docs/configuration.md"
"""Where removed keys are listed with what to write instead."""


def _places(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Name and rule of every key of a configuration, those in the items of lists included."""
    inner = rule.items if rule.properties is None and rule.items is not None else rule
    for name, child in (inner.properties or {}).items():
        yield name, child
        yield from _places(child)


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a complaint: the known word that is nearest, if one resembles it."""
    near = nearest_match(word, known)
    return f"; is {near} meant?" if near else ""


def homes_of(name: str) -> list[Rule]:
    """The rules of all keys of this name, wherever they are."""
    return _homes().get(name, [])


@lru_cache(maxsize=1)
def _homes() -> dict[str, list[Rule]]:
    homes: dict[str, list[Rule]] = {}
    for name, rule in _places(build_rule()):
        homes.setdefault(name, []).append(rule)
    return homes


def _holds_keys(rule: Rule) -> bool:
    return bool(rule.properties or (rule.items is not None and rule.items.properties))


@lru_cache(maxsize=1)
def short_sections() -> dict[str, tuple[Rule, ...]]:
    """Sections below the top ones, and loss modules, which documents name without what stands before them."""
    short = {name: tuple(rule for rule in rules if _holds_keys(rule)) for name, rules in _homes().items()}
    for name, rule in MODULES.items():
        short[name] = (*short.get(name, ()), rule)
    return {name: rules for name, rules in short.items() if rules and name not in SECTIONS}


@lru_cache(maxsize=1)
def key_pattern() -> re.Pattern[str]:
    """A dotted key that starts at a section, a section below it or a loss module, and a value after a colon."""
    first = "|".join(sorted({*SECTIONS, *short_sections()}, key=len, reverse=True))
    return re.compile(
        rf"(?<![\w./<-])(?:config\.)?((?:{first})(?:\[\d*\])?(?:\.[a-z]\w*(?:\[\d*\])?)+)(?:\.\*)?"
        r"(?![\w(./-])(?:(?:: ?|=)([\w.+-]+)$)?"
    )


def wrong_keys(code: str, path: str) -> Iterator[str]:
    """Config keys that no schema has, and values that a key does not take."""
    for written, value in key_pattern().findall(code):
        if FILES.search(written):
            continue
        rule, missing = _best(written)
        removed = missing in (rule.removed if rule else {})
        if missing and not (removed and path == MIGRATION):
            yield f"{written} is no config key{meant(missing, (rule.properties or {}) if rule else {})}"
        elif value and rule and not missing and (value not in rule.removed_values or path != MIGRATION):
            yield from (f"{written}: {fault.message}" for fault in find_faults(rule, yaml.safe_load(value)))
    for written, value in LONE.findall(code):
        if path != MIGRATION:
            yield from complaints_about_value(written, yaml.safe_load(value))


def complaints_about_value(name: str, value: object) -> Iterator[str]:
    """What is wrong with the value of a key written without its section; nothing for a name of several keys or none."""
    homes = homes_of(name)
    if len(homes) == 1:
        faults = [fault for fault in find_faults(homes[0], value) if not fault.missing]
        yield from (f"{render_path((name, *fault.path))}: {fault.message}" for fault in faults)


def _best(written: str) -> tuple[Rule | None, str]:
    """The rule that a dotted key leads to from the top, or from any section of the name that it starts with."""
    first, _, rest = written.partition(".")
    name = first.partition("[")[0]
    if name in SECTIONS:
        return rule_of(written, build_rule())
    found = [rule_of(rest, rule) for rule in short_sections()[name]]
    return next((pair for pair in found if not pair[1]), found[0])


def rule_of(written: str, start: Rule) -> tuple[Rule | None, str]:
    """The rule that a dotted key leads to from `start` and "", or the last rule on the way and the part it lacks."""
    rule: Rule | None = start
    for part in written.split("."):
        name = part.partition("[")[0]
        if rule is None:
            return None, ""
        if rule.properties is None:
            inner = rule.items if rule.items is not None else module_keys(rule)
            if inner is None or not inner.properties:
                return (rule, name) if name in rule.removed else (None, "")
            rule = inner
        if name not in (rule.properties or {}):
            return rule, name
        rule = (rule.properties or {})[name]
        if "[" in part and rule.items is not None:
            rule = rule.items
    return rule, ""


def module_keys(rule: Rule) -> Rule | None:
    """The keys of every loss module, for the open `config` of a pipeline's entry."""
    if rule.description != "The module's own keys.":
        return None
    keys: dict[str, Rule] = {}
    for module in MODULES.values():
        keys |= module.properties or {}
    return Rule(("object",), frozenset({dict}), "", {}, None, properties=keys)


def wrong_metrics(code: str) -> Iterator[str]:
    """Metric names, or patterns of them, that the metric table does not have."""
    table = read_metric_table()
    spaces = {key.split("/")[0] for key in table} | KEPT
    for written in METRIC.findall(code):
        pattern = re.sub(r"<[^>]*>", "*", written)
        if written.split("/")[0] in FOLDERS and written != code:
            continue
        if written.split("/")[0] in spaces and not any(fnmatch.fnmatchcase(key, pattern) for key in table):
            yield f"{written} is no metric{meant(written, table)}"


@lru_cache(maxsize=1)
def known_ids() -> tuple[frozenset[str], frozenset[str]]:
    """The ids of all invariants, and of all requirements."""
    return frozenset(row.id for row in load_invariants()), frozenset(row.id for row in load_requirements())


def wrong_ids(text: str) -> Iterator[tuple[int, str]]:
    """Line and complaint for each id of an invariant or a requirement that does not exist."""
    known, rows = known_ids()
    areas = {name.split("-")[0] for name in known}
    for number, line in enumerate(text.splitlines(), start=1):
        for name in INVARIANT.findall(line):
            if name.split("-")[0] in areas and name not in known:
                yield number, f"{name} is no invariant"
        yield from ((number, f"{name} is no requirement") for name in REQUIREMENT.findall(line) if name not in rows)
