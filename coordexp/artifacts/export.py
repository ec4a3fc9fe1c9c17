"""A checkpoint of any run becomes a whole folder: adapter and offsets merged, complete for every reader. ART-024.

In: what `read_source` found, and where to; out: the folder, written whole or not at all and read back. peft merges, in
float32; the sum is rounded once, to the type asked for.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

from coordexp.artifacts.checkpoint_notes import CheckpointNotes, write_notes
from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.artifacts.export_source import ExportSource, stored_dtype
from coordexp.artifacts.folders import FolderError, check_room, check_writable
from coordexp.artifacts.whole_folder import check_vacant, written_whole
from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.whole_model import check_whole_model
from coordexp.forward.coord_offset import plain_ends
from coordexp.forward.coord_offset_files import load_coord_offset, merged_state_dict, parameter_name, tying_declared
from coordexp.forward.saved_weights import SavedWeightsError, check_tensors

ExportType = Literal["auto", "float32", "bfloat16", "float16"]
State = dict[str, torch.Tensor]
Told = Callable[[str], None]
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class ExportError(ValueError):
    """A checkpoint that cannot be made a whole model, or a folder that does not take it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The folder, the type of its weights, and their files' size in bytes."""

    folder: Path
    torch_dtype: str
    nbytes: int


def export(source: ExportSource, out: Path, torch_dtype: ExportType = "auto", told: Told = lambda _: None) -> Exported:
    """Write `source` as a whole folder at `out`, which is not there yet or empty; `told` is called before each part.

    `auto` is the type in which the weights were trained, where the checkpoint says so, else the type they are stored
    in. Raises `ExportError`, `FolderError` and `CheckpointFolderError`.
    """
    config = Qwen3VLForConditionalGeneration.config_class.from_pretrained(source.whole.folder)
    trained = source.torch_dtype or stored_dtype(config) or "float32"
    written = trained if torch_dtype == "auto" else str(torch_dtype)
    check_target(source, out, source.whole.parameters * ITEM_BYTES[written])
    told(f"loading {source.whole.folder}")
    # In the trained type first: what rounding to it took away, training has not seen.
    model = _loaded(source.whole.folder, trained).float()
    if source.adapter:
        told(f"merging {source.folder}")
        model = _merged(model, source.folder)
    state = _state(model, source)
    model, state = model.to(getattr(torch, written)), _cast(state, getattr(torch, written))
    with written_whole(out) as partial:
        told(f"writing {out}")
        _write(model, state, partial)
        source.processor.save_pretrained(partial)
        _generation_config(source).save_pretrained(partial)
        told("reading it back")
        check_tensors(partial, state)
        write_notes(
            partial,
            CheckpointNotes(out.absolute(), written, made_from=source.folder.absolute()),
            source.processor.tokenizer,
        )
        check_weights_only(partial)
    check_whole_model(out)
    return Exported(out, written, sum(path.stat().st_size for path in out.glob("*.safetensors")))


def check_target(source: ExportSource, out: Path, needed: int) -> None:
    """Raise unless `out` can take `needed` bytes, and is no place that an export would change or hide."""
    inside = source.folder.resolve()
    if inside == out.resolve() or inside in out.resolve().parents:
        raise ExportError(f"{out}: lies in {source.folder}, which is exported; write a folder outside of it")
    check_vacant(out)
    check_room(check_writable(out), needed)


def _loaded(folder: Path, torch_dtype: str) -> Qwen3VLForConditionalGeneration:
    try:
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype=getattr(torch, torch_dtype)
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{folder}: cannot be loaded as a Qwen3-VL: {_line(error)}") from error
    return model.eval()


def _merged(model: Qwen3VLForConditionalGeneration, folder: Path) -> Qwen3VLForConditionalGeneration:
    """The model with the adapter of `folder` merged by peft, every tensor of it used."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tuned = PeftModel.from_pretrained(model, str(folder), config=config, autocast_adapter_dtype=True)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        # peft raises what its parts raise.
        raise ExportError(
            f"{folder}: its adapter does not fit {model.config.name_or_path}: {_line(error)}; name the model that it "
            "was trained on with --model"
        ) from error
    _check_all_used(tuned, folder)
    try:
        merged: Any = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ExportError(f"{folder}: {_line(error)}; the run has diverged: export an earlier checkpoint") from error
    return merged


def _check_all_used(tuned: PeftModel, folder: Path) -> None:
    """peft only warns of what a file lacks, and says nothing of what the model has no place for."""
    wanted = set(get_peft_model_state_dict(tuned))
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        held = set(file.keys())
    wrong = sorted(wanted ^ held)
    if wrong:
        what = "has no place for" if wrong[0] in held else "needs, and the adapter lacks,"
        raise ExportError(
            f"{folder}: the model {what} {wrong[0]} ({len(wrong)} tensors in all); name the model that it was trained "
            "on with --model, or copy the folder again"
        )


def _state(model: Qwen3VLForConditionalGeneration, source: ExportSource) -> State:
    """Every weight under its final name, the offsets added."""
    if not source.offsets:
        return dict(model.state_dict())
    try:
        load_coord_offset(model, source.folder)
    except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise ExportError(f"{source.folder}: its coord offsets do not fit: {_line(error)}") from error
    return merged_state_dict(model)


def _cast(state: State, dtype: torch.dtype) -> State:
    """Each tensor in `dtype`; one under two names stays one."""
    cast: dict[int, torch.Tensor] = {}
    return {name: cast.setdefault(tensor.data_ptr(), tensor.to(dtype)) for name, tensor in state.items()}


def _write(model: Qwen3VLForConditionalGeneration, state: State, folder: Path) -> None:
    """Weights and configuration; a head that has left its embedding is declared untied."""
    embedding, head = (state[parameter_name(model, end)] for end in plain_ends(model))
    with tying_declared(model, embedding is head):
        model.save_pretrained(folder, state_dict=state)


def _generation_config(source: ExportSource) -> GenerationConfig:
    """As it lies beside the weights: loading may have changed the model's own."""
    for folder in (source.folder, source.whole.folder):
        if os.path.isfile(folder / "generation_config.json"):
            return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(
        Qwen3VLForConditionalGeneration.config_class.from_pretrained(source.whole.folder)
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


EXPORT_ERRORS = (CheckpointFolderError, ExportError, FolderError, SavedWeightsError)
"""What bad input can raise here; each message stands alone."""
