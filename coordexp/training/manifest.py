"""What a run says of itself before its first step: its manifest, and a sample for a person to read. ART-001, TRAIN-*.

Rank 0 alone writes; data is hashed and files are written once.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.provenance import ArtifactError
from coordexp.artifacts.run_manifest import DataFile, Origins, RunFacts, read_origins, write_run_manifest
from coordexp.config import Config, render_resolved, resolve_output
from coordexp.data.seeds import render_seed_record
from coordexp.losses.defaults import describe_objective
from coordexp.losses.manifest import Manifest, checksum, resolved_document
from coordexp.training.arguments import world_size
from coordexp.training.preflight import partial_notes
from coordexp.training.ranks import is_first_rank
from coordexp.training.server_connect import vllm_mode
from coordexp.training.server_launch import read_server_launch

if TYPE_CHECKING:
    from coordexp.data.run_inputs import Role, RunSamples
    from coordexp.training.build import Foundation

_LOG = logging.getLogger(__name__)
_NEEDED = ("torch", "transformers", "ms-swift")
_ELSEWHERE = {"unknown": "scripts/train_stage2.sh did not start it; rollout_servers holds what it says of itself"}


@dataclass(frozen=True, slots=True)
class Beginnings:
    """What a run can say of itself before weights are loaded: where it comes from, and how its server was started."""

    origins: Origins
    server: Mapping[str, Any]


def read_beginnings(config: Config, samples: Mapping[Role, RunSamples]) -> Beginnings | None:
    """Of rank 0, which writes the manifest; None on the others. Raises `ArtifactError` for what it could not tell."""
    if not is_first_rank():
        return None
    mode = vllm_mode(config)
    server = read_server_launch(os.environ)
    origins = read_origins(
        config_sources=tuple(reversed(config.sources.files)),
        data={str(role): DataFile(part.file.jsonl, part.file.image_root) for role, part in samples.items()},
        shell=os.environ,
        needed=_NEEDED if mode is None else (*_NEEDED, "vllm"),
    )
    return Beginnings(origins, {"server": _ELSEWHERE, **server} if mode == "server" else server)


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
    """Write `run_manifest.json` into `folder`: what `foundation` has from the beginning, and what is known now."""
    seed, training, beginnings = config.training.seed, config.training, foundation.beginnings
    if beginnings is None:
        raise ArtifactError(f"{folder}: rank 0 alone writes the run manifest, and this rank has not read what it holds")
    return write_run_manifest(
        folder,
        RunFacts(
            resolved_config=json.loads(render_resolved(config)),
            seeds={"training": seed} | render_seed_record(seed),
            reproducibility={
                "config": str(config.sources.path),
                "run_name": training.run_name,
                "seed": {"source": "training.seed", "value": seed},
                "output_roots": {
                    "training.output_dir": str(folder.absolute()),
                    "training.logging_dir": str(resolve_output(config, training.logging_dir)),
                },
            },
            origins=beginnings.origins,
            pipeline_checksum=checksum(objective),
            pipeline=resolved_document(objective),
            shared_images=None if foundation.shared is None else foundation.shared.document(),
            launch={"world_size": world_size(), **launch, **beginnings.server},
        ),
    )
