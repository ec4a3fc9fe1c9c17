"""A stage-1 run's facts in, its manifest on disk out. Contract ids: ART-001, TRAIN-*."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from coordexp.artifacts.run_manifest import RunFacts, write_run_manifest
from coordexp.config import Config, render_resolved
from coordexp.data.seeds import render_seed_record
from coordexp.losses.manifest import Manifest, checksum, resolved_document
from coordexp.training.arguments import world_size


def write_stage1_manifest(config: Config, folder: Path, data: Mapping[str, Path], objective: Manifest) -> Path:
    """Write `run_manifest.json` into `folder`, with the cook manifests that lie beside the JSONL files of `data`."""
    return write_run_manifest(
        folder,
        RunFacts(
            resolved_config=json.loads(render_resolved(config)),
            config_sources=tuple(reversed(config.sources.files)),
            seeds={"training": config.training.seed} | render_seed_record(config.training.seed),
            data=data,
            pipeline_checksum=checksum(objective),
            pipeline=resolved_document(objective),
            launch={"world_size": world_size()},
        ),
    )
