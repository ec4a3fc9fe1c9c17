"""The run manifest: everything that decides a run's outcome, in one file of the output folder. Contract ids: ART-001,
ART-002, ART-065, ART-066.

What can be known before weights are loaded is read then (`read_origins`), so that a run that could not tell of itself
does not begin; the trainer's facts join it, and `run_manifest.json` (`coordexp:run-manifest`) leaves. The cook
manifests of the data, with every counted drop, are carried along whole.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import hash_file, write_json
from coordexp.artifacts.machine import read_environment, read_hardware
from coordexp.artifacts.provenance import ArtifactError, read_frameworks, read_source, read_versions, unknown
from coordexp.data.cooking import MANIFEST_NAME as COOK_MANIFEST_NAME
from coordexp.data.cooking import RECORDS_NAME as COOKED_RECORDS_NAME
from coordexp.spec import ContractFileError, ContractViolation, check, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST_NAME = "run_manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of records and the folder that its image paths start from."""

    jsonl: Path
    image_root: Path


@dataclass(frozen=True, slots=True)
class Origins:
    """What a run comes from, as sections of its manifest."""

    sources: tuple[Mapping[str, Any], ...]
    data: Mapping[str, Mapping[str, Any]]
    sections: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What only the caller knows.

    `resolved_config` is the mapping that re-loads equal; `seeds` every seed by name; `reproducibility` the checklist of
    what to name when the run is told of; `pipeline` the resolved objective, which `pipeline_checksum` identifies;
    `shared_images` what training and validation both hold by content, None without a validation; `launch` further facts
    such as world size or server flags.
    """

    resolved_config: Mapping[str, Any]
    seeds: Mapping[str, int]
    reproducibility: Mapping[str, Any]
    origins: Origins
    pipeline_checksum: str | None = None
    pipeline: Mapping[str, Any] | None = None
    shared_images: Mapping[str, Any] | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)


def read_origins(
    config_sources: tuple[Path, ...], data: Mapping[str, DataFile], shell: Mapping[str, str], needed: tuple[str, ...]
) -> Origins:
    """Hash the YAML files (leaf first) and the data by role (`train`, `val`), and look at code, machine and `shell`,
    the environment. `needed` are the frameworks that the run cannot do without.

    Raises `ArtifactError` for one that is not there, a file that cannot be read, and a cook manifest that is not true
    of its data.
    """
    frameworks = read_frameworks()
    for name in needed:
        if "unknown" in frameworks[name]:
            raise ArtifactError(
                f"{MANIFEST_NAME}: the run needs {name}, and {frameworks[name]['unknown']}; install what "
                "requirements/ locks (scripts/setup.sh)"
            )
    try:
        sources = tuple(_file_document(path) for path in config_sources)
        documents = {role: _data_document(entry) for role, entry in data.items()}
    except OSError as error:
        raise ArtifactError(
            f"{MANIFEST_NAME}: {error.filename} cannot be read ({error.strerror}), so the run could not say what it "
            "was made from; put it back, or name another file in the configuration"
        ) from error
    sections = {
        "versions": read_versions(),
        "source": read_source(),
        "upstream": frameworks,
        "hardware": read_hardware(),
        "environment": read_environment(shell),
    }
    return Origins(sources, documents, sections)


def build_run_manifest(facts: RunFacts) -> dict[str, Any]:
    """The manifest as a checked document."""
    return check(
        "run-manifest",
        {
            "schema_version": SCHEMA_VERSION,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": list(sys.argv),
            "config": {"resolved": dict(facts.resolved_config), "sources": [dict(f) for f in facts.origins.sources]},
            "reproducibility": dict(facts.reproducibility),
            "seeds": dict(facts.seeds),
            "pipeline_checksum": facts.pipeline_checksum,
            "pipeline": None if facts.pipeline is None else dict(facts.pipeline),
            "data": {role: dict(entry) for role, entry in facts.origins.data.items()},
            "shared_images": None if facts.shared_images is None else dict(facts.shared_images),
            "launch": dict(facts.launch),
            **facts.origins.sections,
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


def _data_document(entry: DataFile) -> dict[str, Any]:
    with entry.jsonl.open("rb") as stream:
        records = sum(1 for _ in stream)
    return {
        **_file_document(entry.jsonl),
        "records": records,
        "image_root": str(entry.image_root),
        "cook_manifest": _cook_manifest(entry.jsonl, records),
    }


def _cook_manifest(jsonl: Path, records: int) -> dict[str, Any]:
    """The manifest that cooking wrote beside `jsonl`, with its hash; or why there is none for it."""
    path = jsonl.parent / COOK_MANIFEST_NAME
    if jsonl.name != COOKED_RECORDS_NAME:
        return unknown(f"cooking writes {COOKED_RECORDS_NAME}, and this file has another name")
    if not path.is_file():
        return unknown(f"there is no {COOK_MANIFEST_NAME} beside it")
    try:
        document = check("cook-manifest", read_json(path))
    except (ContractFileError, ContractViolation) as error:
        raise ArtifactError(
            f"{path}: {error}; it is none that this version of cooking writes: cook again, or move it away"
        ) from error
    if document["records"]["kept"] != records:
        raise ArtifactError(
            f"{path}: counts {document['records']['kept']} records but {jsonl.name} holds {records}: the file was "
            "changed after cooking, so its drop counts are not true of it; cook again, or keep the changed file "
            "under another name"
        )
    return {**_file_document(path), "document": document}
