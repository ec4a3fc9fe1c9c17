"""Names that documents write out of the contracts: config keys, metrics, invariants, requirements. POLICY-015.

A line or a piece of code in, complaints about what no contract has out.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from coordexp.config.problems import nearest_match
from coordexp.config.rules import Rule, build_rule
from coordexp.config.validate import find_faults
from coordexp.metrics.table import read_metric_table
from coordexp.spec import load_invariants, load_requirements

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = tuple(name for name, rule in (build_rule().properties or {}).items() if "object" in rule.names)
KEY = re.compile(
    rf"(?<![\w./<-])(?:config\.)?((?:{'|'.join(SECTIONS)})(?:\.[a-z]\w*(?:\[\d*\])?)+)(?:\.\*)?"
    r"(?![\w(./-])(?:: ?([\w.+-]+)$)?"
)
FILES = re.compile(r"\.(jsonl?|ya?ml|safetensors|md|py|txt|log|png|html|sh|pt|bin)$")
METRIC = re.compile(r"(?<![\w./<-])([a-z]\w*(?:/[\w<>*]+)+)(?![\w./-])")
INVARIANT = re.compile(r"(?<![\w-])([A-Z]+-\d{3})(?![\w-])")
REQUIREMENT = re.compile(r"(?<![\w-])((?:AUDIT|REG|CFG|REP)-\d+[A-Z]?\.\d+[A-Z]?)(?![\w-])")
KEPT = {"rollout", "stage2_ab", "acc"}
"""First parts that only metrics have, whether there is one yet or not."""
FOLDERS = ("data", "packing", "eval", "progress")
"""First parts of metric names that folders have too: such a name is one when nothing stands beside it."""
FENCE = re.compile(r"^```ya?ml\n(.*?)^```", re.DOTALL | re.MULTILINE)
MIGRATION = "docs/configuration.md"
"""Where removed keys are listed with what to write instead."""


def wrong_keys(code: str, path: str) -> Iterator[str]:
    """Config keys that no schema has, and values that a key does not take."""
    for written, value in KEY.findall(code):
        if FILES.search(written):
            continue
        rule, missing = rule_of(written)
        removed = missing in (rule.removed if rule else {})
        if missing and not (removed and path == MIGRATION):
            near = nearest_match(missing, (rule.properties or {}) if rule else {})
            yield f"{written} is no config key{f'; is {near} meant?' if near else ''}"
        elif value and rule and not missing and (value not in rule.removed_values or path != MIGRATION):
            yield from (f"{written}: {fault.message}" for fault in find_faults(rule, yaml.safe_load(value)))


def rule_of(written: str) -> tuple[Rule | None, str]:
    """The rule that a dotted key leads to and "", or the last rule on the way and the part that it lacks."""
    rule: Rule | None = build_rule()
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
    for kind in ("objective", "diagnostic"):
        names = (build_rule(f"coordexp:config/pipeline.{kind}").properties or {})["name"].enum or ()
        for name in names:
            keys |= build_rule(f"coordexp:losses/{name}").properties or {}
    return Rule(("object",), frozenset({dict}), "", {}, None, properties=keys)


def wrong_examples(text: str) -> Iterator[tuple[int, str]]:
    """Line and complaint for each key of a YAML example that no configuration takes."""
    for match in FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 2
        try:
            content: Any = yaml.safe_load(match.group(1))
        except yaml.YAMLError as error:
            yield line, f"the example is no YAML: {str(error).partition(chr(10))[0]}"
            continue
        if isinstance(content, dict) and set(content) & set(build_rule().properties or {}):
            values = {key: value for key, value in content.items() if key != "extends"}
            for fault in find_faults(build_rule(), values):
                if not fault.missing:
                    rows = match.group(1).splitlines()
                    offset = next((n for n, row in enumerate(rows) if str(fault.path[-1]) in row), 0)
                    yield line + offset, f"{'.'.join(map(str, fault.path))}: {fault.message}"


def wrong_metrics(code: str) -> Iterator[str]:
    """Metric names, or patterns of them, that contracts/metrics does not have."""
    table = read_metric_table()
    spaces = {key.split("/")[0] for key in table} | KEPT
    for written in METRIC.findall(code):
        pattern = re.sub(r"<[^>]*>", "*", written)
        if written.split("/")[0] in FOLDERS and written != code:
            continue
        if written.split("/")[0] in spaces and not any(fnmatch.fnmatchcase(key, pattern) for key in table):
            near = nearest_match(written, table)
            yield f"{written} is no metric{f'; is {near} meant?' if near else ''}"


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
