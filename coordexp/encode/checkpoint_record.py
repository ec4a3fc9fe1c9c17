"""What a checkpoint says of itself in `checkpoint.json`: digests of its weights, the vocabulary it was trained with.

Contract id: ART-022. In: a checkpoint's folder; out: the record, or None for a folder that this project did not write.
What the record contradicts is refused: a changed or cut file, another tokenizer.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from coordexp.encode.checkpoint import CheckpointFolderError, read_checkpoint_json
from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.spec import ContractViolation, check

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

RECORD_NAME = "checkpoint.json"
RECORD_VERSION = 1


def read_checkpoint_record(folder: Path) -> dict[str, Any] | None:
    """The record of a checkpoint; None without one. Raises `CheckpointFolderError` for one that does not fit."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = check("checkpoint", read_checkpoint_json(path))
    except ContractViolation as error:
        raise CheckpointFolderError(f"{path}: {error}; copy the folder again, or delete the file") from error
    return record


def describe_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The vocabulary as records hold it: a digest of every token with its id, and the first and last coord id."""
    found = fingerprint_tokenizer(tokenizer)
    return {"tokens_sha256": found["tokens"], "coords": found["coords"]}


def digest_weights(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file of weights that lies in a checkpoint's folder, by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def check_recorded_weights(folder: Path) -> Path:
    """Return `folder` unless its weights are others than its record names: cut, changed, lost or mixed."""
    record = read_checkpoint_record(folder)
    if record is None:
        return folder
    written, found = record["weights"], digest_weights(folder)
    wrong = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        what = "is missing" if name not in found else "was not saved with it" if name not in written else "has changed"
        raise CheckpointFolderError(
            f"{folder}: {name} {what} since the checkpoint was saved ({RECORD_NAME} holds its digests); copy the "
            f"folder again, or delete {RECORD_NAME} if the change was meant"
        )
    return folder


def check_recorded_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `CheckpointFolderError` where the tokenizer is another than the one that the weights were trained with."""
    record = read_checkpoint_record(folder)
    if record is None:
        return
    trained, found = record["vocabulary"], describe_vocabulary(tokenizer)
    if trained["coords"] != found["coords"]:
        what = "has its coord tokens at {}..{}".format(*found["coords"])
        what += ", and the weights were trained with {}..{}".format(*trained["coords"])
    elif trained != found:
        what = "is another than the one that the weights were trained with"
    else:
        return
    raise CheckpointFolderError(
        f"{folder}: its tokenizer {what} ({RECORD_NAME}); copy tokenizer.json and tokenizer_config.json from the "
        "checkpoint as it was saved"
    )
