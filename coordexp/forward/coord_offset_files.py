"""The coord-offset adapter on disk: two files beside an adapter checkpoint, or merged into a whole one.

Contract ids: FWD-007, FWD-008.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from coordexp.forward.coord_offset import (
    MODULE_NAME,
    CoordOffset,
    check_installed,
    install_coord_offset,
    offset_rows,
    plain_ends,
)
from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedModel

WEIGHTS_FILE = "coord_offset.safetensors"
CONFIG_FILE = "coord_offset.json"
SCHEMA_VERSION = 1


def save_coord_offset(model: nn.Module, directory: Path) -> None:
    """Write the offsets (safetensors, in their dtype) and what they belong to (JSON) beside the PEFT adapter."""
    adapter = check_installed(model)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in adapter.named_parameters()}
    description = {
        "schema_version": SCHEMA_VERSION,
        "tie_head": adapter.tie_head,
        "width": adapter.embed_offset.shape[1],
        "ids": adapter.coord_ids.tolist(),
    }
    save_file(tensors, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps(description) + "\n", encoding="utf-8")


def load_coord_offset(model: nn.Module, directory: Path) -> CoordOffset:
    """Install what `save_coord_offset` wrote on `model`. Raises ValueError when the files and the model disagree."""
    path = directory / CONFIG_FILE
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    width = unwrap_model(model).get_input_embeddings().weight.shape[1]
    if description["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version {description['schema_version']}; this version reads {SCHEMA_VERSION}")
    if description["width"] != width:
        raise ValueError(f"{path}: offsets of width {description['width']} do not fit a model of width {width}")
    tensors = load_file(directory / WEIGHTS_FILE)
    adapter = install_coord_offset(
        model, description["ids"], tie_head=description["tie_head"], dtype=tensors["embed_offset"].dtype
    )
    adapter.load_state_dict(tensors)
    return adapter


def merged_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of `model` with the offsets added to the coord rows and the adapter's own tensors left out.

    The live model is not touched. Embedding and head stay one tensor while they are equal; with tied base weights and
    `tie_head: false` they differ, and the head becomes a tensor of its own. Raises ValueError while PEFT layers are
    unmerged.
    """
    base, adapter = unwrap_model(model), check_installed(model)
    state = {name: value for name, value in base.state_dict().items() if not name.startswith(f"{MODULE_NAME}.")}
    if unmerged := [name for name in state if ".base_layer." in name]:
        raise ValueError(
            f"{len(unmerged)} weights such as {unmerged[0]} still wait for their PEFT adapter: "
            f"call merge_and_unload() first, then export"
        )
    embedding, head = plain_ends(base)
    one_tensor = embedding.weight is head.weight and adapter.tie_head
    embedding_name, head_name = parameter_name(base, embedding), parameter_name(base, head)
    state[embedding_name] = merge_rows(embedding.weight, adapter.coord_ids, adapter.embed_offset)
    state[head_name] = (
        state[embedding_name] if one_tensor else merge_rows(head.weight, adapter.coord_ids, adapter.head_offset)
    )
    return state


def merge_rows(weight: torch.Tensor, coord_ids: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """A copy of `weight` [V, H] with `offset` [C, H] added to the rows `coord_ids`; the other rows keep their bits."""
    merged = weight.detach().clone()
    merged[coord_ids] = offset_rows(merged[coord_ids], offset.detach())
    return merged


def parameter_name(base: PreTrainedModel, module: nn.Module) -> str:
    """The state-dict name of the weight of `module`."""
    return next(f"{name}.weight" for name, candidate in base.named_modules() if candidate is module)


def export_merged(model: nn.Module, directory: Path) -> None:
    """Write a whole checkpoint with the offsets merged; `from_pretrained` then gives the same logits on every row.

    A head that has left its tied embedding is written as untied (`tie_word_embeddings: false`), or reloading would
    drop it.
    """
    base, state = unwrap_model(model), merged_state_dict(model)
    embedding, head = (parameter_name(base, end) for end in plain_ends(base))
    with tying_declared(base, state[embedding] is state[head]):
        base.save_pretrained(directory, state_dict=state)


@contextmanager
def tying_declared(base: PreTrainedModel, tied: bool) -> Iterator[None]:
    """While open, the configs of `base` say that embedding and head are `tied`, or are not."""
    configs = [base.config, base.config.get_text_config()]
    before = [config.tie_word_embeddings for config in configs]
    for config in configs:
        config.tie_word_embeddings = tied
    try:
        yield
    finally:
        for config, value in zip(configs, before, strict=True):
            config.tie_word_embeddings = value
