"""What a run says of itself before its first step: its manifest, and a sample for a person to read. ART-001, TRAIN-*.

Rank 0 alone writes; data is hashed and files are written once.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.run_manifest import RunFacts, write_run_manifest
from coordexp.config import Config, render_resolved, resolve_output
from coordexp.data.seeds import render_seed_record
from coordexp.losses.defaults import describe_objective
from coordexp.losses.manifest import Manifest, checksum, resolved_document
from coordexp.training.arguments import world_size
from coordexp.training.preflight import partial_notes
from coordexp.training.server_launch import read_server_launch

if TYPE_CHECKING:
    from coordexp.training.build import Foundation

_LOG = logging.getLogger(__name__)


def write_run_files(
    config: Config,
    output_dir: str,
    foundation: Foundation,
    objective: Manifest,
    launch: Mapping[str, Any],
) -> None:
    """Write `run_manifest.json` into the run's folder and, where the config asks for it, the first training sample as
    the tokenizer spells it; log the objective. `launch` is what the variant knows of
    how it was launched.
    """
    folder = Path(output_dir)
    _LOG.info("%s", describe_objective(config, objective))
    if foundation.shared is not None and foundation.shared.count:
        _LOG.warning("%s", foundation.shared.render("train", "val"))
    for note in partial_notes(resolve_output(config, config.training.output_dir)):
        _LOG.warning("%s", note)
    write_manifest(config, folder, foundation, objective, launch)
    custom = config.custom
    if custom.dump_conversation_text:
        written = custom.dump_conversation_path
        path = folder / "conversation.txt" if written is None else resolve_output(config, written)
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = foundation.encoder.sample(foundation.samples["train"].records[0]).input_ids.tolist()
        path.write_text(foundation.encoder.tokenizer.decode(ids) + "\n", encoding="utf-8")


def write_manifest(
    config: Config,
    folder: Path,
    foundation: Foundation,
    objective: Manifest,
    launch: Mapping[str, Any],
) -> Path:
    """Write `run_manifest.json` into `folder`, with the cook manifests that lie beside the JSONL files."""
    seed = config.training.seed
    return write_run_manifest(
        folder,
        RunFacts(
            resolved_config=json.loads(render_resolved(config)),
            config_sources=tuple(reversed(config.sources.files)),
            seeds={"training": seed} | render_seed_record(seed),
            data={str(role): samples.file.jsonl for role, samples in foundation.samples.items()},
            pipeline_checksum=checksum(objective),
            pipeline=resolved_document(objective),
            shared_images=None if foundation.shared is None else foundation.shared.document(),
            launch={"world_size": world_size(), **launch, **read_server_launch(os.environ)},
        ),
    )
