"""Which checkpoint a path means, and what an export of it is made from. Contract id: ART-024.

In: the folder of a run or of a checkpoint; out: the checkpoint with its base, read and compared, before weights are
loaded. Raises `CheckpointFolderError`.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.run_manifest import MANIFEST_NAME
from coordexp.coords.vocab import CoordVocabError, build_coord_vocab
from coordexp.encode.checkpoint import (
    ADAPTER_CONFIG,
    OFFSETS_CONFIG,
    CheckpointFolderError,
    check_checkpoint_folder,
    read_checkpoint_json,
)
from coordexp.encode.checkpoint_record import (
    check_recorded_vocabulary,
    check_recorded_weights,
    describe_vocabulary,
    digest_weights,
    read_checkpoint_record,
)
from coordexp.encode.processor import ProcessorError, load_processor
from coordexp.encode.whole_model import WholeModel, check_whole_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, ProcessorMixin

FINAL = "final"
_WEIGHTS = "adapter_model.safetensors"
_OFFSET_WEIGHTS = "coord_offset.safetensors"


@dataclass(frozen=True, eq=False)
class ExportSource:
    """A checkpoint: `whole` is the folder's own model, or the base of its adapter. `offsets` lie in the folder and are
    not yet merged. `torch_dtype` is the type in which the weights were trained, None where nothing says so.
    """

    folder: Path
    whole: WholeModel
    processor: ProcessorMixin
    adapter: bool
    offsets: bool
    torch_dtype: str | None


def find_checkpoint(path: Path) -> Path:
    """The folder itself where it is a checkpoint, of a run its last weights."""
    if not os.path.isdir(path):
        raise CheckpointFolderError(f"{path}: no such folder; name a run's output folder or one of its checkpoints")
    if any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG, OFFSETS_CONFIG)):
        return path
    if (path / FINAL).is_dir():
        return path / FINAL
    names = (found.name for found in path.glob("checkpoint-*") if found.is_dir())
    kept = sorted(names, key=lambda name: (len(name), name))
    if kept:
        raise CheckpointFolderError(
            f"{path}: the run has not ended (it holds no {FINAL}); name one of its checkpoints: {', '.join(kept)}"
        )
    runs = sorted(found.parent.name for found in path.glob(f"*/{MANIFEST_NAME}"))
    if runs:
        raise CheckpointFolderError(f"{path}: holds runs; name one of them: {', '.join(runs)}")
    raise CheckpointFolderError(
        f"{path}: holds neither a checkpoint (config.json or {ADAPTER_CONFIG}) nor a run ({FINAL}, checkpoint-*)"
    )


def read_source(path: Path, base: Path | None) -> ExportSource:
    """What an export of `path` is made from. `base` stands for the folder that the adapter's own config names."""
    folder = check_checkpoint_folder(find_checkpoint(path))
    if (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
        return _whole_source(folder, base)
    if (folder / "config.json").is_file() or not (folder / ADAPTER_CONFIG).is_file():
        what = f"holds {ADAPTER_CONFIG} and config.json; keep each in a folder of its own"
        alone = f"holds {OFFSETS_CONFIG} alone, neither adapter nor model; copy the folder again"
        raise CheckpointFolderError(f"{folder}: {what if (folder / 'config.json').is_file() else alone}")
    return _adapter_source(folder, base)


def _whole_source(folder: Path, base: Path | None) -> ExportSource:
    """Offsets beside a whole model are merged in it already: so every release has written it."""
    if base is not None:
        raise CheckpointFolderError(f"{folder}: is a whole model, which has no base; leave --model out")
    whole = check_whole_model(folder, spare_weights=True)
    check_recorded_weights(folder)
    processor = load_processor(folder)
    check_recorded_vocabulary(folder, processor.tokenizer)
    return ExportSource(folder, whole, processor, adapter=False, offsets=False, torch_dtype=None)


def _adapter_source(folder: Path, base: Path | None) -> ExportSource:
    _check_adapter_files(folder)
    check_recorded_weights(folder)
    record = read_checkpoint_record(folder)
    named = {"base_model_name_or_path": None, **read_checkpoint_json(folder / ADAPTER_CONFIG)}[
        "base_model_name_or_path"
    ]
    path = Path(str(named)) if base is None else base
    if not os.path.isdir(path):
        what = (
            f"names the model under it {named}, which is no folder here" if base is None else f"{path}: no such folder"
        )
        raise CheckpointFolderError(f"{folder / ADAPTER_CONFIG}: {what}; name the model's folder with --model")
    whole = check_whole_model(path)
    if record is not None and record["base"] is not None and record["base"]["weights"] != digest_weights(path):
        raise CheckpointFolderError(
            f"{path}: its weights are not those of the model that {folder} was trained on (checkpoint.json holds their "
            "digests); name that model's folder with --model"
        )
    processor = _processor_of(folder, path)
    check_recorded_vocabulary(folder, processor.tokenizer)
    offsets = (folder / OFFSETS_CONFIG).is_file()
    _check_coords(folder, whole, processor, offsets)
    dtype = None if record is None else str(record["torch_dtype"])
    return ExportSource(folder, whole, processor, adapter=True, offsets=offsets, torch_dtype=dtype)


def _check_adapter_files(folder: Path) -> None:
    lost = [] if (folder / _WEIGHTS).is_file() else [_WEIGHTS]
    if (folder / OFFSETS_CONFIG).is_file() != (folder / _OFFSET_WEIGHTS).is_file():
        lost.append(_OFFSET_WEIGHTS if (folder / OFFSETS_CONFIG).is_file() else OFFSETS_CONFIG)
    if lost:
        raise CheckpointFolderError(f"{folder}: lacks {' and '.join(lost)}; copy the folder again")


def _processor_of(folder: Path, base: Path) -> ProcessorMixin:
    """The adapter's own, which must write as the base's does; older adapters have none."""
    theirs = load_processor(base)
    if not (folder / "tokenizer_config.json").is_file():
        return theirs
    own = load_processor(folder)
    if _vocabulary(folder, own) != _vocabulary(base, theirs):
        raise CheckpointFolderError(
            f"{folder}: its tokenizer is not that of the model under it, {base}; name the model that it was trained on "
            "with --model, or copy tokenizer.json and tokenizer_config.json from there"
        )
    return own


def _vocabulary(folder: Path, processor: ProcessorMixin) -> dict[str, Any]:
    try:
        build_coord_vocab(processor.tokenizer)
    except CoordVocabError as error:
        raise ProcessorError(f"{folder}: {error}") from error
    return describe_vocabulary(processor.tokenizer)


def _check_coords(folder: Path, whole: WholeModel, processor: ProcessorMixin, offsets: bool) -> None:
    """The rows that the offsets move are those of the tokenizer's coord tokens, and rows of the model."""
    ids = list(build_coord_vocab(processor.tokenizer).ids)
    if ids[-1] >= whole.rows:
        raise CheckpointFolderError(
            f"{whole.folder}: has {whole.rows} rows, and the tokenizer's coord tokens end at {ids[-1]}; name the model "
            "that the adapter was trained on with --model"
        )
    if not offsets:
        return
    moved = {"ids": None, **read_checkpoint_json(folder / OFFSETS_CONFIG)}["ids"]
    if moved != ids:
        shown = f"{moved[0]}..{moved[-1]}" if isinstance(moved, list) and moved else moved
        raise CheckpointFolderError(
            f"{folder / OFFSETS_CONFIG}: moves the rows {shown}, and the tokenizer's coord tokens are "
            f"{ids[0]}..{ids[-1]}: the offsets belong to another vocabulary; name the model that they were trained on "
            "with --model"
        )


def stored_dtype(config: PretrainedConfig) -> str | None:
    """The type that a configuration says its weights are stored in."""
    stored = config.dtype
    return None if stored is None else str(stored).removeprefix("torch.")
