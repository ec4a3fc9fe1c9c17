"""The run manifest: everything that decides a run's outcome, in one file of the output folder. Contract ids: ART-001, ART-002.

The trainer's facts enter, `run_manifest.json` (`coordexp:run-manifest`) leaves; the cook manifests of the data, with every
counted drop, are carried along whole.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import coordexp
from coordexp.artifacts.files import hash_file, hash_folder, write_json
from coordexp.artifacts.provenance import read_git_state, read_upstream, read_versions
from coordexp.spec import check, contracts_root, read_json

MANIFEST_NAME = "run_manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class DataFile:
    """One JSONL file of the run and the manifest that cooking wrote for it (None for data cooked elsewhere)."""

    jsonl: Path
    cook_manifest: Path | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What only the caller knows.

    `resolved_config` is the mapping that re-loads equal; `config_sources` the YAML files it came from, leaf first; `seeds`
    every seed by name; `data` the files by role (`train`, `val`); `launch` further facts such as world size or server flags.
    """

    resolved_config: Mapping[str, Any]
    config_sources: tuple[Path, ...]
    seeds: Mapping[str, int]
    data: Mapping[str, DataFile]
    pipeline_checksum: str | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)


def build_run_manifest(facts: RunFacts) -> dict[str, Any]:
    """The manifest as a checked document. Reads the files it names; a missing one raises `FileNotFoundError`."""
    return check("run-manifest", {
        "schema_version": SCHEMA_VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "config": {
            "resolved": dict(facts.resolved_config),
            "sources": [_file_document(path) for path in facts.config_sources]},
        "seeds": dict(facts.seeds),
        "pipeline_checksum": facts.pipeline_checksum,
        "data": {role: _data_document(entry) for role, entry in facts.data.items()},
        "launch": dict(facts.launch),
        "versions": read_versions(),
        "source": {
            "version": coordexp.__version__, "git": read_git_state(Path(coordexp.__file__).parent).document(),
            "contracts_sha256": hash_folder(contracts_root())},
        "upstream": {"ms-swift": read_upstream("ms-swift", "swift")},
    })


def write_run_manifest(folder: Path, facts: RunFacts) -> Path:
    """Write the manifest into a run's output folder and return its path."""
    return write_json(folder / MANIFEST_NAME, build_run_manifest(facts))


def read_run_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's output folder; `FileNotFoundError` without one, `ContractViolation` when it does not fit."""
    manifest: dict[str, Any] = check("run-manifest", read_json(folder / MANIFEST_NAME))
    return manifest


def _file_document(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": hash_file(path)}


def _data_document(entry: DataFile) -> dict[str, Any]:
    cooked = None if entry.cook_manifest is None else read_json(entry.cook_manifest)
    return {**_file_document(entry.jsonl), "cook_manifest": cooked}
