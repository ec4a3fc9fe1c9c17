"""What a dry run does: config in; all that a run needs checked, the resolved config written, lines to show out.

Contract ids: TRAIN-012, TRAIN-023, LOSS-030.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config import render_resolved, resolve_output
from coordexp.losses.defaults import describe_objective, resolve_manifest
from coordexp.training.build import build_foundation
from coordexp.training.preflight import partial_notes
from coordexp.training.stage2_preflight import doubtful_limits, unsupported

if TYPE_CHECKING:
    from coordexp.config import Config


def dry_run(config: Config) -> tuple[str, ...]:
    """Check what a run does before it loads weights, by the same function; write `resolved_config.json` into the run's
    folder, and say what would be trained.
    """
    foundation = build_foundation(config)
    found = foundation.samples
    folder = resolve_output(config, config.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "resolved_config.json"
    path.write_text(render_resolved(config) + "\n", encoding="utf-8")
    told = [f"warning: {note}" for note in partial_notes(folder)]
    told += [f"not trained by this version: {problem}" for problem in unsupported(config)]
    told += [f"warning: {problem}" for problem in doubtful_limits(config, found, foundation.encoder)]
    if foundation.shared is not None and foundation.shared.count:
        told.append(f"warning: {foundation.shared.render('train', 'val')}")
    counts = ", ".join(f"{role}: {part.survey.records} records" for role, part in found.items())
    return counts, f"resolved config: {path}", describe_objective(config, resolve_manifest(config)), *told
