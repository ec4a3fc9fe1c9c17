"""The run manifest: everything that decides a run's outcome, in one file of the output folder. Contract ids: ART-001,
ART-002.

The trainer's facts enter, `run_manifest.json` (`coordexp:run-manifest`) leaves; the cook manifests of the data, with
every counted drop, are carried along whole.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coordexp
from coordexp.artifacts.files import hash_file, hash_folder, write_json
from coordexp.artifacts.provenance import read_git_state, read_upstream, read_versions
from coordexp.data.cooking import MANIFEST_NAME as COOK_MANIFEST_NAME
from coordexp.data.cooking import RECORDS_NAME as COOKED_RECORDS_NAME
from coordexp.spec import check, contracts_root, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_NAME = "run_manifest.json"
SCHEMA_VERSION = 1


class ArtifactError(ValueError):
    """Files of a run that contradict each other."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What only the caller knows.

    `resolved_config` is the mapping that re-loads equal; `config_sources` the YAML files it came from, leaf first;
    `seeds` every seed by name; `pipeline` the resolved objective, which `pipeline_checksum` identifies; `data` the
    JSONL files by role (`train`, `val`); `shared_images` what both of them hold by content, None without a
    validation; `launch` further facts such as world size or server flags.
    """

    resolved_config: Mapping[str, Any]
    config_sources: tuple[Path, ...]
    seeds: Mapping[str, int]
    data: Mapping[str, Path]
    pipeline_checksum: str | None = None
    pipeline: Mapping[str, Any] | None = None
    shared_images: Mapping[str, Any] | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)


def build_run_manifest(facts: RunFacts) -> dict[str, Any]:
    """The manifest as a checked document, from the files that `facts` names.

    Raises `FileNotFoundError` for a missing one, `ArtifactError` for a cook manifest that is not true of its data.
    """
    return check(
        "run-manifest",
        {
            "schema_version": SCHEMA_VERSION,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": list(sys.argv),
            "config": {
                "resolved": dict(facts.resolved_config),
                "sources": [_file_document(path) for path in facts.config_sources],
            },
            "seeds": dict(facts.seeds),
            "pipeline_checksum": facts.pipeline_checksum,
            "pipeline": None if facts.pipeline is None else dict(facts.pipeline),
            "data": {role: _data_document(entry) for role, entry in facts.data.items()},
            "shared_images": None if facts.shared_images is None else dict(facts.shared_images),
            "launch": dict(facts.launch),
            "versions": read_versions(),
            "source": {
                "version": coordexp.__version__,
                "git": read_git_state(Path(coordexp.__file__).parent).document(),
                "contracts_sha256": hash_folder(contracts_root()),
            },
            "upstream": {"ms-swift": read_upstream("ms-swift", "swift")},
        },
    )


def write_run_manifest(folder: Path, facts: RunFacts) -> Path:
    """Write the manifest into a run's output folder and return its path."""
    return write_json(folder / MANIFEST_NAME, build_run_manifest(facts))


def read_run_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's output folder; `FileNotFoundError` without one, `ContractViolation` when it does not
    fit.
    """
    manifest: dict[str, Any] = check("run-manifest", read_json(folder / MANIFEST_NAME))
    return manifest


def _file_document(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": hash_file(path)}


def _data_document(jsonl: Path) -> dict[str, Any]:
    with jsonl.open("rb") as stream:
        records = sum(1 for _ in stream)
    return {**_file_document(jsonl), "records": records, "cook_manifest": _cook_manifest(jsonl, records)}


def _cook_manifest(jsonl: Path, records: int) -> Any:
    """The manifest that cooking wrote beside `jsonl`; None for data that was cooked elsewhere."""
    path = jsonl.parent / COOK_MANIFEST_NAME
    if jsonl.name != COOKED_RECORDS_NAME or not path.is_file():
        return None
    manifest = check("cook-manifest", read_json(path))
    if manifest["records"]["kept"] != records:
        raise ArtifactError(
            f"{path}: counts {manifest['records']['kept']} records but {jsonl.name} holds {records}: the file was "
            "changed after cooking, so its drop counts are not true of it; cook again, or keep the changed file "
            "under another name"
        )
    return manifest
