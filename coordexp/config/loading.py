"""The one way to load a configuration: YAML, `extends`, schemas, cross checks, frozen types. CONFIG-001 to CONFIG-015.

In: the path of a file; out: a `Config`, or one `ConfigError` with every problem at once.
"""

from __future__ import annotations

import dataclasses
import os.path
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.config.checks import GENERAL_CHECKS, Check
from coordexp.config.hierarchy import linked_profile, moved_parents, moved_path, profile_problems
from coordexp.config.inheritance import Chain, read_chain
from coordexp.config.paths import project_root
from coordexp.config.problems import ConfigError, KeyPath, Problem, render_path
from coordexp.config.rules import build_rule
from coordexp.config.source import Node, UnreadText, node_at, plain
from coordexp.config.stage2_checks import STAGE2_CHECKS
from coordexp.config.tuner_checks import TUNER_CHECKS
from coordexp.config.typed import build_config
from coordexp.config.types import Config, Sources
from coordexp.config.validate import Fault, find_faults
from coordexp.config.view import UnreadableKeyError, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def load_config(path: str | Path) -> Config:
    """Load, check and resolve a configuration.

    Raises `ConfigError` with all problems of the file and of those it extends, each with its dotted key and file:line.
    """
    path = Path(path).absolute()
    problems = [*moved_path(path), *linked_profile(path)]
    if problems and not os.path.isfile(path):
        raise ConfigError(str(path), problems)
    chain = read_chain(path, problems)
    values: dict[str, Any] = plain(chain.root)
    problems.extend(_all_problems(chain, values))
    if problems:
        raise ConfigError(str(path), sorted(dict.fromkeys(problems), key=_reading_order(chain)))
    sources = Sources(path, chain.files, dict(_origins(chain.root, ())), project_root(path))
    return _apply_debug(build_config(values, sources))


def _all_problems(chain: Chain, values: dict[str, Any]) -> Iterator[Problem]:
    rule = build_rule()
    faults = find_faults(rule, values)
    for fault in faults:
        if not _is_told(chain, fault):
            yield Problem(fault.path, fault.message, _where(chain.root, fault))
    yield from moved_parents(chain)
    yield from profile_problems(chain)
    if not chain.complete:
        # Keys can't be compared without those of the parent that is not there.
        return
    view = View(rule, values, chain.root, [fault.path for fault in faults])
    yield from _run_checks(view, (*GENERAL_CHECKS, *TUNER_CHECKS, *STAGE2_CHECKS))


def _is_told(chain: Chain, fault: Fault) -> bool:
    """Whether a fault follows from a problem of reading: a scalar that could not be read, a parent that was not."""
    if fault.missing:
        return not chain.complete
    return isinstance(node_at(chain.root, fault.path).value, UnreadText)


def _run_checks(view: View, checks: Iterable[Check]) -> Iterator[Problem]:
    for check in checks:
        try:
            yield from check(view)
        except UnreadableKeyError:
            # The key that the check needs has a problem of its own, which is in the report.
            continue


def _where(root: Node, fault: Fault) -> str:
    """Where a fault is written; a key that is missing is named at the mapping that lacks it."""
    node = node_at(root, fault.path)
    return str(node.file) if fault.missing and node is root else node.where


def _reading_order(chain: Chain) -> Any:
    """Sort key: the file that was named first, then its parents, each by line."""
    rank = {str(file): i for i, file in enumerate(reversed(chain.files))}

    def key(problem: Problem) -> tuple[int, int, str]:
        file, colon, line = problem.where.rpartition(":")
        if not colon or not line.isdigit():
            file, line = problem.where, "0"
        return rank.get(file, -1), int(line), render_path(problem.path)

    return key


def _origins(node: Node, path: KeyPath) -> Iterator[tuple[str, str]]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _origins(child, (*path, key))
    elif isinstance(node.value, list) and any(isinstance(item.value, dict) for item in node.value):
        for index, child in enumerate(node.value):
            yield from _origins(child, (*path, index))
    else:
        yield render_path(path), node.where


def _apply_debug(config: Config) -> Config:
    """Lay the overrides of `debug` on the configuration; laying them twice changes nothing."""
    debug = config.debug
    if not debug.enabled:
        return config
    training, custom = config.training, config.custom
    if debug.output_dir is not None:
        training = dataclasses.replace(training, output_dir=debug.output_dir, logging_dir=debug.output_dir)
    if debug.train_sample_limit is not None:
        custom = dataclasses.replace(custom, train_sample_limit=debug.train_sample_limit)
    if debug.val_sample_limit is not None:
        custom = dataclasses.replace(custom, val_sample_limit=debug.val_sample_limit)
    return dataclasses.replace(config, training=training, custom=custom)
