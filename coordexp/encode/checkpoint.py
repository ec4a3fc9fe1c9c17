"""What a checkpoint folder may hold before anything of it is loaded: neither code nor pickles. Contract id: ENC-018.

ms-swift loads with `trust_remote_code=True`; a folder that names code of its own would have it run.
"""

from __future__ import annotations

from pathlib import Path

from coordexp.spec import ContractFileError, read_json

CONFIG_FILES = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class CheckpointFolderError(ValueError):
    """A folder that is no checkpoint, or one whose loading would run code."""


def check_checkpoint_folder(folder: Path | str) -> Path:
    """Return `folder` if loading it runs no code of its own; else raise `CheckpointFolderError`.

    Refused: `auto_map` in a config of transformers, Python files, and pickled weights without safetensors beside them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointFolderError(f"{folder}: no such checkpoint folder; name a local one, nothing is downloaded")
    for name in CONFIG_FILES:
        if "auto_map" in read_checkpoint_json(folder / name):
            raise CheckpointFolderError(
                f"{folder / name}: auto_map names code that loading would run; delete the key, Qwen3-VL's classes are "
                "those of transformers"
            )
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


def read_checkpoint_json(path: Path) -> dict[str, object]:
    """The JSON object in a file of a checkpoint, empty when there is none. Raises `CheckpointFolderError`."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ContractFileError as error:
        raise CheckpointFolderError(str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointFolderError(f"{path}: holds no JSON object")
    return content
