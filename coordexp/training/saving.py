"""How a run's checkpoints come to be: whole or not at all, complete for their readers, best and last known by links.

In: the trainer's model, processor and state; out: folders. Contract ids: ART-020..ART-025, TRAIN-080.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from coordexp.artifacts.checkpoint_notes import CheckpointNotes, write_notes
from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.artifacts.folders import FolderError
from coordexp.artifacts.whole_folder import point_link, remove_folder, written_whole
from coordexp.forward.coord_offset import coord_offset_of
from coordexp.forward.coord_offset_files import save_coord_offset
from coordexp.forward.saved_weights import SavedWeightsError, check_saved
from coordexp.forward.unwrap import unwrap_model
from coordexp.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import ProcessorMixin, TrainerState

LAST, BEST = "last-checkpoint", "best-checkpoint"
"""Links in a run's folder to two of its checkpoints."""
TRAINER_FILES = ("training_args.bin", "args.json")
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_LOG = logging.getLogger(__name__)


@contextmanager
def saving(folder: Path, step: int) -> Iterator[Path]:
    """Yields where to write a checkpoint, which is `folder` once it is whole. What stands in the way of writing ends
    the run, with the checkpoints before it as they were.
    """
    try:
        with written_whole(folder) as partial:
            yield partial
    except (FolderError, SavedWeightsError) as error:
        raise TrainingError(
            f"step {step}: {error}. The checkpoints before it are whole: make room, or write another "
            "training.output_dir, and start a new run from the last of them (model.model)"
        ) from error


@dataclass(frozen=True, eq=False)
class Saved:
    """What a checkpoint is of, and the path that it will have."""

    model: nn.Module
    processor: ProcessorMixin
    place: Path
    step: int


def complete_checkpoint(folder: Path, saved: Saved) -> None:
    """Add to the weights in `folder` what their readers need, take away what is the trainer's, and read them back."""
    for name in TRAINER_FILES:
        (folder / name).unlink(missing_ok=True)
    model, base = saved.model, unwrap_model(saved.model)
    offsets = coord_offset_of(model) is not None
    notes = CheckpointNotes(saved.place, str(base.dtype).removeprefix("torch."), saved.step)
    if isinstance(model, PeftModel):
        # Upstream leaves both to the base model's folder.
        saved.processor.save_pretrained(folder)
        base.generation_config.save_pretrained(folder)
        if offsets:
            save_coord_offset(model, folder)
        knobs = model.peft_config["default"]
        notes = CheckpointNotes(
            saved.place,
            notes.torch_dtype,
            saved.step,
            base=Path(knobs.base_model_name_or_path),
            method="DoRA" if knobs.use_dora else "LoRA",
            offsets=offsets,
        )
    check_saved(model, folder)
    write_notes(folder, notes, saved.processor.tokenizer)
    check_weights_only(folder)


def keep_checkpoints(folder: Path, state: TrainerState, limit: int | None) -> None:
    """After a checkpoint was written: the links lead to the last and to the best, and of the others the oldest go until
    `limit` are left, the last and the best among them.
    """
    found = numbered_checkpoints(folder)
    last = found[-1]
    best = folder / f"checkpoint-{state.best_global_step}" if state.best_global_step else None
    if best in found:
        state.best_model_checkpoint = str(best)
    kept = {last} | ({Path(state.best_model_checkpoint)} if state.best_model_checkpoint else set())
    try:
        point_link(folder / LAST, last)
        if state.best_model_checkpoint:
            point_link(folder / BEST, Path(state.best_model_checkpoint))
    except OSError as error:
        _LOG.warning("%s: the links to its last and best checkpoint could not be set: %s", folder, error)
    spare = [path for path in found if path not in kept]
    for path in spare[: max(0, len(found) - limit)] if limit else ():
        remove_folder(path)


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, by their steps."""
    steps: dict[int, Path] = {}
    for path in folder.iterdir():
        numbered: Any = _CHECKPOINT.match(path.name)
        if numbered and path.is_dir():
            steps[int(numbered[1])] = path
    return [steps[step] for step in sorted(steps)]
