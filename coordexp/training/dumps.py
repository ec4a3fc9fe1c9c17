"""What a run writes for a person to read beside its log, as its configuration asks. In: the configuration and where the
run lies; out: the dumps of rank 0. Contract ids: ART-060, ROLL-072.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordexp.artifacts.dump_files import DumpBounds
from coordexp.rollout.serve import shared_key
from coordexp.training.request_dump import RequestDump
from coordexp.training.rollout_dump import RolloutDump
from coordexp.training.server_connect import server_section, uses_servers

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.config import Config
    from coordexp.config.rollout_sections import DebugDumpConfig, MonitorDumpConfig
    from coordexp.encode.pieces import PieceTable


@dataclass(frozen=True, slots=True)
class Dumps:
    """The dumps of this rank; None for one that is not asked for, and on every rank but the first."""

    monitor: RolloutDump | None = None
    requests: RequestDump | None = None

    def tell(self) -> None:
        """Say what was written, and what was not."""
        for dump in (self.monitor, self.requests):
            if dump is not None:
                dump.files.tell()


def build_dumps(config: Config, run: Path, pieces: PieceTable, rank: int) -> Dumps:
    """The dumps of a rank, in the folder `run`."""
    if rank != 0 or config.rollout_matching is None:
        return Dumps()
    return Dumps(_monitor(config, run, pieces), _requests(config, run))


def _monitor(config: Config, run: Path, pieces: PieceTable) -> RolloutDump | None:
    section = config.rollout_matching
    if section is None or not section.monitor_dump.enabled:
        return None
    asked = section.monitor_dump
    return RolloutDump(run, pieces, _bounds(config, asked, asked.max_text_chars))


def _requests(config: Config, run: Path) -> RequestDump | None:
    if not uses_servers(config) or not server_section(config).debug_dump.enabled:
        return None
    asked = server_section(config).debug_dump
    bounds = replace(_bounds(config, asked, asked.max_chars), first_step=asked.dump_first_step)
    return RequestDump(run, bounds, config.training.seed, shared_key())


def _bounds(config: Config, asked: MonitorDumpConfig | DebugDumpConfig, max_chars: int) -> DumpBounds:
    """What both sections ask for alike; without `every_steps` it is `training.logging_steps`."""
    return DumpBounds(
        every_steps=config.training.logging_steps if asked.every_steps is None else asked.every_steps,
        max_events=asked.max_events,
        max_samples=asked.max_samples,
        max_chars=max_chars,
        min_free_gib=asked.min_free_gib,
    )
