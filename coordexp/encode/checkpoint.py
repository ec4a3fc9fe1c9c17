"""What a checkpoint folder may hold before anything of it is loaded: neither code nor pickles, and no adapter where a
whole model is asked for. Contract ids: ENC-018, ENC-020. No torch.

ms-swift loads with `trust_remote_code=True`; a folder that names code of its own would have it run.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from coordexp.spec import ContractFileError, RepeatedKeyError, read_json

CONFIG_FILES = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
TOKENIZER, VOCABULARY = "tokenizer.json", "vocab.json"
OTHER_JSON_FILES = ("added_tokens.json", "special_tokens_map.json", "chat_template.json", "generation_config.json")
"""What transformers reads too where it is there; of a broken generation config it takes defaults without a word."""
COPY_AGAIN = "copy or download it again"
PARTIAL_PREFIX = ".partial-"
"""How the name of a folder begins while it is written (ART-020): a kill leaves it, and nothing reads it."""
ADAPTER_CONFIG, OFFSETS_CONFIG = "adapter_config.json", "coord_offset.json"
EXPORT_COMMAND = "python -m coordexp.entrypoints.export"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class CheckpointFolderError(ValueError):
    """A folder that is no checkpoint, or one whose loading would run code."""


def check_checkpoint_folder(folder: Path | str) -> Path:
    """Return `folder` if loading it runs no code of its own; else raise `CheckpointFolderError`.

    Refused: what a killed save has left, `auto_map` in a config of transformers, a JSON file that loading reads and
    that is none, Python files, and pickled weights without safetensors beside them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointFolderError(f"{folder}: no such checkpoint folder; name a local one, nothing is downloaded")
    if folder.name.startswith(PARTIAL_PREFIX):
        raise CheckpointFolderError(
            f"{folder}: is what a save that was killed has left, and not whole; delete it, and name a checkpoint "
            "beside it"
        )
    for name in CONFIG_FILES:
        if "auto_map" in read_checkpoint_json(folder / name):
            raise CheckpointFolderError(
                f"{folder / name}: auto_map names code that loading would run; delete the key, Qwen3-VL's classes are "
                "those of transformers"
            )
    # A slow tokenizer's vocabulary is read in place of a fast one's, and never beside it.
    for name in (TOKENIZER if (folder / TOKENIZER).is_file() else VOCABULARY, *OTHER_JSON_FILES):
        read_checkpoint_json(folder / name)
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if scripts:
        raise CheckpointFolderError(f"{folder}: holds code ({', '.join(scripts)}), which loading could run; delete it")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles and not any(folder.glob("*.safetensors")):
        raise CheckpointFolderError(
            f"{folder}: holds pickled weights ({', '.join(pickles)}) and no *.safetensors; unpickling runs code: save "
            "the model as safetensors first"
        )
    return folder


def check_no_adapter(folder: Path) -> Path:
    """Return `folder` unless it holds an adapter, alone or beside a whole model."""
    held = [name for name in (ADAPTER_CONFIG, OFFSETS_CONFIG) if (folder / name).is_file()]
    if held and not (folder / "config.json").is_file():
        raise CheckpointFolderError(
            f"{folder}: holds an adapter ({held[0]}), not a whole model; make one of it, and name that: "
            f"{export_line(folder)}"
        )
    if ADAPTER_CONFIG in held:
        raise CheckpointFolderError(
            f"{folder}: holds {held[0]} beside a whole model, so loading would add that adapter or start from its "
            "base; keep each in a folder of its own"
        )
    return folder


def export_line(folder: Path) -> str:
    """The command that makes a whole model of a checkpoint, in a folder beside it."""
    return shlex.join([*EXPORT_COMMAND.split(), str(folder), "--out", f"{folder}-whole"])


def read_checkpoint_json(path: Path) -> dict[str, object]:
    """The JSON object in a file of a checkpoint, empty when there is none. Raises `CheckpointFolderError`."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ContractFileError as error:
        if isinstance(error.__cause__, OSError | RepeatedKeyError):
            raise CheckpointFolderError(str(error)) from error
        reason = " ".join(str(error.__cause__).split())
        raise CheckpointFolderError(
            f"{path}: is cut short or no JSON ({path.stat().st_size} bytes; {reason}); {COPY_AGAIN}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointFolderError(f"{path}: holds no JSON object; {COPY_AGAIN}")
    return content
