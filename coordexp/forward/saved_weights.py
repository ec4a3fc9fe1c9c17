"""Whether what was written is what is trained: weights are read back and compared bit for bit. Contract id: ART-021.

In: a model, however wrapped, and a folder that its weights were written into; out: nothing, or the error that names
the tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from coordexp.forward.coord_offset import coord_offset_of
from coordexp.forward.coord_offset_files import WEIGHTS_FILE, merged_state_dict
from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout.weight_digest import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn


class SavedWeightsError(ValueError):
    """Files of weights that are not what was to be written into them."""


def check_saved(model: nn.Module, folder: Path) -> None:
    """Raise `SavedWeightsError` unless the files in `folder` hold the weights of `model`: its adapter's and the offsets
    beside it, or all of them with the offsets merged.
    """
    offsets = coord_offset_of(model)
    if isinstance(model, PeftModel):
        state = get_peft_model_state_dict(model)
        if offsets is not None:
            check_tensors(folder, dict(offsets.named_parameters()), WEIGHTS_FILE)
    else:
        state = unwrap_model(model).state_dict() if offsets is None else merged_state_dict(model)
    check_tensors(folder, state)


def check_tensors(folder: Path, state: Mapping[str, torch.Tensor], only: str | None = None) -> None:
    """Raise `SavedWeightsError` unless the files hold every tensor of `state` and no other; one that shares its memory
    with another may stand under either name. `only` names a file; without it all but that of the offsets are read.
    """
    found: set[str] = set()
    paths = [folder / only] if only else [p for p in sorted(folder.glob("*.safetensors")) if p.name != WEIGHTS_FILE]
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                _check_equal(path, name, file.get_tensor(name), state)
                found.add(name)
    held = {state[name].data_ptr() for name in found}
    lost = sorted(name for name in state.keys() - found if state[name].data_ptr() not in held)
    if lost:
        raise SavedWeightsError(f"{folder}: {lost[0]} and {len(lost) - 1} more tensors were not written")


def _check_equal(path: Path, name: str, read: torch.Tensor, state: Mapping[str, torch.Tensor]) -> None:
    if name not in state:
        raise SavedWeightsError(f"{path}: holds {name}, which is no weight of what was saved")
    written = state[name]
    same = (read.dtype, read.shape) == (written.dtype, written.shape)
    # By digest: bits of NaN are equal to themselves, and one number leaves the device.
    if not same or int(fingerprint(read)) != int(fingerprint(written)):
        raise SavedWeightsError(
            f"{path}: {name} reads back otherwise than it was written; the disk or its driver fails"
        )
