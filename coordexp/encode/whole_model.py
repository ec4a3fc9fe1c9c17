"""A checkpoint folder in, what is known of its model without loading it out, or what it lacks. Contract id: ENC-020.

Only file headers are read, so a cut download costs a second to find. What from_pretrained would fill with random
numbers, or read from an adapter beside the weights, is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from transformers import Qwen3VLConfig

from coordexp.config.layers import EMBEDDING, HEAD, Depths, module_kinds
from coordexp.encode.checkpoint import (
    COPY_AGAIN,
    CheckpointFolderError,
    check_checkpoint_folder,
    check_no_adapter,
    export_line,
    read_checkpoint_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MODEL_TYPE = "qwen3_vl"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Older releases write these parts of a name in another order, and transformers reads all of them.
_PREFIX = re.compile(r"^((base_model|model|language_model|visual)\.)+")
_LAYER = re.compile(r"(layers|blocks|deepstack_merger_list)\.(\d+)\.")
_SHOWN = 3

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class WholeModel:
    """A folder with a whole Qwen3-VL: vocabulary rows, tensors by name and shape, and what its config asks for.

    `positions` is the longest prompt and answer together; `tied`: the head is the embedding.
    """

    folder: Path
    rows: int
    shapes: Mapping[str, tuple[int, ...]]
    quantized: bool
    attention_dropout: float
    positions: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(_size(shape) for shape in self.shapes.values())


def check_whole_model(folder: Path | str, *, spare_weights: bool = False) -> WholeModel:
    """What the folder holds, if loading it gives the whole model of its config.json and runs no code.

    Raises `CheckpointFolderError` for a folder that is none, an adapter, another architecture, weights that are
    missing or cut short, tensors that the model needs and the files lack, and, unless `spare_weights` are let pass,
    files of weights that are not the model's.
    """
    folder = Path(folder)
    if folder.is_dir():
        check_no_adapter(folder)
    config = _read_model_config(check_checkpoint_folder(folder))
    if not spare_weights:
        _check_no_spare_weights(folder)
    shapes = _read_shapes(folder)
    text, vision = config.text_config, config.vision_config
    depths = Depths(text.num_hidden_layers, vision.depth, len(vision.deepstack_visual_indexes))
    _check_complete(folder, depths, shapes, tied=bool(config.tie_word_embeddings))
    _check_rows(folder, shapes, (text.vocab_size, text.hidden_size))
    quantized = hasattr(config, "quantization_config")
    return WholeModel(
        folder,
        text.vocab_size,
        shapes,
        quantized,
        float(text.attention_dropout),
        int(text.max_position_embeddings),
        bool(config.tie_word_embeddings),
    )


def _check_no_spare_weights(folder: Path) -> None:
    """Readers that take every *.safetensors for weights, vLLM among them, read what transformers does."""
    spare = sorted(path.name for path in folder.glob("*.safetensors") if path.name != WEIGHTS)
    if (folder / WEIGHTS).is_file() and spare:
        raise CheckpointFolderError(
            f"{folder}: holds {_list(spare)} beside {WEIGHTS}, and a rollout server would take it for weights; make a "
            f"folder without it: {export_line(folder)}"
        )


def _read_model_config(folder: Path) -> Qwen3VLConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointFolderError(f"{folder}: not a checkpoint folder (it has no config.json)")
    found = {"model_type": None, **read_checkpoint_json(path)}["model_type"]
    if found != MODEL_TYPE:
        raise CheckpointFolderError(f"{path}: model_type is {found!r}, and only a Qwen3-VL ({MODEL_TYPE!r}) is read")
    try:
        return Qwen3VLConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and huggingface_hub raise classes of their own for a wrong value
        reason = " ".join(str(error).split())
        raise CheckpointFolderError(f"{path}: is no configuration of a Qwen3-VL: {reason}") from error


def _read_shapes(folder: Path) -> Shapes:
    """Shape of each tensor in the files that transformers reads: one file, else those of the index."""
    if (folder / WEIGHTS).is_file():
        return _read_header(folder / WEIGHTS)
    index = folder / INDEX
    if not index.is_file():
        parts = sorted(path.name for path in folder.glob("*.safetensors"))
        beside = f" beside {_list(parts)}" if parts else ""
        raise CheckpointFolderError(f"{folder}: holds no weights: neither {WEIGHTS} nor {INDEX}{beside}; {COPY_AGAIN}")
    parts_of = {"weight_map": None, **read_checkpoint_json(index)}["weight_map"]
    if not isinstance(parts_of, dict) or not all(isinstance(name, str) for name in parts_of.values()):
        raise CheckpointFolderError(f"{index}: has no weight_map from tensors to files; {COPY_AGAIN}")
    files = sorted(set(parts_of.values()))
    gone = [name for name in files if not (folder / name).is_file()]
    if gone:
        text = f"lacks {len(gone)} of {len(files)} weight files: {_list(gone)}"
        raise CheckpointFolderError(f"{folder}: {text}; {COPY_AGAIN}")
    shapes: Shapes = {}
    for name in files:
        shapes |= _read_header(folder / name)
    lost = sorted(set(parts_of) - set(shapes))
    if lost:
        raise CheckpointFolderError(
            f"{index}: names {len(lost)} tensors that its files lack: {_list(lost)}; {COPY_AGAIN}"
        )
    return shapes


def _read_header(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointFolderError(
            f"{path}: is cut short or no safetensors file ({path.stat().st_size} bytes; {error}); {COPY_AGAIN}"
        ) from error


def _check_complete(folder: Path, depths: Depths, shapes: Iterable[str], *, tied: bool) -> None:
    """Layers and weights are the same: transformers only warns of a missing or a spare one, and goes on without it."""
    held = {_bare_name(name) for name in shapes}
    needed = [
        f"{module}.weight"
        for module, kind in module_kinds(depths).items()
        if kind != "other" and not (tied and module == HEAD)
    ]
    lost = [name for name in needed if _bare_name(name) not in held]
    limits = {"layers": depths.text, "blocks": depths.vision, "deepstack_merger_list": depths.mergers}
    spare = [name for name in held if (part := _LAYER.match(name)) and int(part[2]) >= limits[part[1]]]
    if spare:
        raise CheckpointFolderError(
            f"{folder}: holds layers beyond those of config.json, which loading would leave out: "
            f"{_list(sorted(spare))}; the weights and the config are of two models"
        )
    if lost:
        raise CheckpointFolderError(
            f"{folder}: lacks the weights of {len(lost)} of {len(needed)} layers, which loading would fill with random "
            f"numbers: {_list(lost)}; {COPY_AGAIN}"
        )


def _check_rows(folder: Path, shapes: Shapes, wanted: tuple[int, int]) -> None:
    embedding = _bare_name(f"{EMBEDDING}.weight")
    found = next(shape for name, shape in shapes.items() if _bare_name(name) == embedding)
    if found != wanted:
        raise CheckpointFolderError(
            f"{folder}: embed_tokens is {list(found)}, and config.json says {list(wanted)} (vocab_size, hidden_size); "
            "the weights and the config are of two models"
        )


def _bare_name(name: str) -> str:
    return _PREFIX.sub("", name)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
