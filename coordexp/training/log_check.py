"""A run's folder in, what its log lacks, or holds undeclared, out. Contract id: ART-041.

Configuration and pipeline are those of the run's manifest, so a run is asked about what it was itself asked to do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import hash_folder
from coordexp.artifacts.run_manifest import MANIFEST_NAME
from coordexp.losses.masks import Provenance
from coordexp.metrics.log_contract import LoggedRun, LogProblem, check_log
from coordexp.spec import ContractFileError, contracts_root, read_json
from coordexp.spec.situations import Module
from coordexp.training.schedule import Schedule
from coordexp.training.types import StepKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LOG_NAME = "logging.jsonl"
_TEXT = "coordexp.entrypoints.check_log is given a run's folder: the one that holds"


class LogError(ValueError):
    """A folder that is no run's, or a log that cannot be read."""


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """Lines read, what is wrong with them, and whether the run knew the contracts that it was checked against."""

    lines: int
    problems: tuple[LogProblem, ...]
    same_contracts: bool


def check_run_log(folder: Path) -> CheckedLog:
    """Check the log of a run; raises `LogError` where there is none, or none that can be read."""
    for name in (MANIFEST_NAME, LOG_NAME):
        if not (folder / name).is_file():
            raise LogError(f"{folder}: no {name} here; {_TEXT} {MANIFEST_NAME} and {LOG_NAME}")
    lines = read_log(folder / LOG_NAME)
    try:
        # Not the whole form: logs of older versions can be asked too.
        manifest = read_json(folder / MANIFEST_NAME)
        run = describe_run(manifest["config"]["resolved"], manifest["pipeline"])
        same = manifest["source"]["contracts_sha256"] == hash_folder(contracts_root())
    except (ContractFileError, LookupError, TypeError) as error:
        raise LogError(f"{folder / MANIFEST_NAME}: no manifest of a training run ({error!r})") from error
    return CheckedLog(len(lines), tuple(check_log(lines, run)), same)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; raises `LogError` with file and line for one that is no object with a `global_step`."""
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise LogError(f"{path}:{number}: no JSON ({error}); was the run ended while it wrote?") from error
        if not isinstance(line, dict) or type(line.get("global_step")) is not int:
            raise LogError(f"{path}:{number}: no log line: it has no whole number under global_step")
        lines.append(line)
    if not lines:
        raise LogError(f"{path}: no lines; the run ended before its first")
    return lines


def describe_run(config: Mapping[str, Any], pipeline: Mapping[str, Any]) -> LoggedRun:
    """What a run is asked to do, from its resolved configuration and pipeline, both in plain values."""
    entries = [*pipeline["objective"], *pipeline["diagnostics"]]
    modules = {entry["name"]: _module(entry) for entry in entries if entry["enabled"]}
    return LoggedRun(config, modules, _step_contexts(config))


def _module(entry: Mapping[str, Any]) -> Module:
    runs = (context for context in Provenance if context.channel is None or context.channel in entry["channels"])
    return Module(frozenset(map(str, runs)), entry["config"])


def _step_contexts(config: Mapping[str, Any]) -> Callable[[int], frozenset[str]]:
    """The contexts of the forwards of a step: what the variant runs, by its schedule where it has one."""
    variant = config["custom"]["trainer_variant"]
    if variant != "stage2_two_channel":
        only = frozenset({"stage1" if variant == "stage1" else "B"})
        return lambda step: only
    schedule = Schedule.of(config["stage2_ab"]["schedule"]["b_ratio"])
    contexts = {StepKind.A: frozenset({"A1", "A2"}), StepKind.B: frozenset({"B"})}
    return lambda step: contexts[schedule.channel(step)]
