"""Copies of a tiny checkpoint with something changed, as `fixtures/encode/checkpoints.json` describes it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS = "model.safetensors"


def change_checkpoint(source: Path, folder: Path, change: Mapping[str, Any]) -> Path:
    """Copy `source` to `folder` and change it: tensors first, then files, in the order written here."""
    shutil.copytree(source, folder)
    _change_tensors(folder, change)
    for name, values in change.get("set", {}).items():
        _set_values(folder / name, values)
    for name in change.get("remove", ()):
        (folder / name).unlink()
    for name, text in change.get("write", {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, share in change.get("cut", {}).items():
        content = (folder / name).read_bytes()
        kept = len(content) + share if share < 0 else int(len(content) * share)
        (folder / name).write_bytes(content[:kept])
    return folder


def _change_tensors(folder: Path, change: Mapping[str, Any]) -> None:
    if not change.keys() & {"drop", "rename", "shard"}:
        return
    tensors = load_file(folder / WEIGHTS)
    dropped = tuple(change.get("drop", ()))
    pattern, replacement = change.get("rename", ("^", ""))
    kept = {
        re.sub(pattern, replacement, name): tensor
        for name, tensor in tensors.items()
        if not (dropped and name.startswith(dropped))
    }
    (folder / WEIGHTS).unlink()
    if not change.get("shard"):
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
        return
    names = sorted(kept)
    half = len(names) // 2
    parts = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for file, held in parts.items():
        save_file({name: kept[name] for name in held}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held} | change.get("index", {})
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _set_values(path: Path, values: Mapping[str, Any]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    for key, value in values.items():
        *above, last = key.split(".")
        section = document
        for part in above:
            section = section[part]
        section[last] = value
    path.write_text(json.dumps(document), encoding="utf-8")
