"""What is compared, and the files of each run: settings in, configurations written as YAML out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.stage2_arms.table import ARMS, ROOT, merged, write_pipeline

if TYPE_CHECKING:
    from coordexp.config import Config

SPLITS = {"crowded": "heldout_crowded", "plain": "heldout"}
"""What a checkpoint is evaluated on, by the name in the tables: the folder below `--data`."""
RECORDS_NAME = "records.jsonl"


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes two results comparable: absolute folders, CPU seconds of a run, threads of a process."""

    checkpoint: Path
    data: Path
    seconds: float
    threads: int
    limit: int | None

    def document(self) -> dict[str, Any]:
        """In plain values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed, and its folder."""

    arm: str
    seed: int
    folder: Path


def write_config(settings: Settings, job: Job, name: str, steps: int, log_every: int) -> Path:
    """The configuration of one run of `job`, written as `<name>.yaml` into its folder; the run goes to `<name>/`."""
    arm = ARMS[job.arm]
    folder = job.folder / name
    document = merged(
        {"extends": str(ROOT / arm.base)} | arm.sections,
        {
            "model": {"model": str(settings.checkpoint)},
            "training": {
                "run_name": f"{job.arm}-{job.seed}-{name}",
                "output_dir": str(folder),
                "logging_dir": str(folder / "tb"),
                "seed": job.seed,
                "max_steps": steps,
                "logging_steps": log_every,
            },
            "custom": {f"{split}_jsonl": str(settings.data / split / RECORDS_NAME) for split in ("train", "val")},
        },
    )
    path = job.folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, document)
    if arm.modules:
        _write(path, write_pipeline(document, arm, resolve_objective(read_config(path))))
    return path


def read_config(path: Path) -> Config:
    """The loaded configuration; raises what loading raises."""
    from coordexp.config import load_config

    return load_config(path)


def resolve_objective(config: Config) -> dict[str, Any]:
    """The resolved objective in plain values."""
    from coordexp.losses.defaults import resolve_manifest
    from coordexp.losses.manifest import resolved_document

    return resolved_document(resolve_manifest(config))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
