"""What lies in a checkpoint's folder beside weights, configuration and processor, for people and for other programs.

In: what the checkpoint is; out: README.md, `args.json` (what ms-swift reads back), `checkpoint.json`. Contract ids:
ART-022, ART-023.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from coordexp.artifacts.files import write_json, write_text
from coordexp.bridges.versions import installed_version
from coordexp.encode.checkpoint import EXPORT_COMMAND
from coordexp.encode.checkpoint_record import RECORD_NAME, RECORD_VERSION, describe_vocabulary, digest_weights
from coordexp.encode.swift_template import MODEL_TYPE
from coordexp.spec import check

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

SWIFT_ARGUMENTS = "args.json"
_MODEL_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class CheckpointNotes:
    """What is said of a checkpoint. `place` is the path that it will have; `base` the model under an adapter, None for
    a whole model; `method` what trained the adapter (LoRA or DoRA); `offsets`: coord offsets lie beside it.
    """

    place: Path
    torch_dtype: str
    step: int | None = None
    base: Path | None = None
    method: Literal["LoRA", "DoRA"] = "LoRA"
    offsets: bool = False
    made_from: Path | None = None


def write_notes(folder: Path, notes: CheckpointNotes, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the three files into `folder`, whose weights are there already."""
    write_text(folder / _MODEL_CARD, _whole_card(notes) if notes.base is None else _adapter_card(notes, notes.base))
    write_json(folder / SWIFT_ARGUMENTS, swift_arguments(notes))
    write_json(folder / RECORD_NAME, checkpoint_record(folder, notes, tokenizer))


def swift_arguments(notes: CheckpointNotes) -> dict[str, Any]:
    """What ms-swift takes from a checkpoint's folder where its command line is silent."""
    base = {} if notes.base is None else {"model": str(notes.base)}
    return base | {
        "swift_version": installed_version("ms-swift"),
        "tuner_type": "full" if notes.base is None else "lora",
        "task_type": "causal_lm",
        "model_type": MODEL_TYPE,
        "template": MODEL_TYPE,
        "torch_dtype": notes.torch_dtype,
    }


def checkpoint_record(folder: Path, notes: CheckpointNotes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """`checkpoint.json` of what lies in `folder`, checked."""
    base = None if notes.base is None else {"path": str(notes.base), "weights": _digests_of_base(notes.base)}
    return check(
        "checkpoint",
        {
            "schema_version": RECORD_VERSION,
            "kind": "whole" if notes.base is None else "adapter",
            "step": notes.step,
            "torch_dtype": notes.torch_dtype,
            "weights": digest_weights(folder),
            "vocabulary": describe_vocabulary(tokenizer),
            "base": base,
            "made_from": None if notes.made_from is None else str(notes.made_from),
        },
    )


@lru_cache(maxsize=1)
def _digests_of_base(base: Path) -> dict[str, str]:
    """A base is read once a run, and a run does not change it."""
    return digest_weights(base)


def _whole_card(notes: CheckpointNotes) -> str:
    place = shlex.quote(str(notes.place))
    return f"""# A whole Qwen3-VL of CoordExp

All weights ({notes.torch_dtype}), tokenizer with the coord tokens, processor, chat template and generation config lie
here; `checkpoint.json` holds digests of the weights. Prompts are those of the run's configuration
(`python -m coordexp.entrypoints.inspect_chat_template` prints one), and images are not resized.

| reader | |
| --- | --- |
| transformers | `Qwen3VLForConditionalGeneration.from_pretrained("{notes.place}")`, `AutoProcessor` likewise |
| vLLM | `vllm serve {place}` |
| ms-swift | `swift infer --model {place}` |
| CoordExp | `python -m coordexp.entrypoints.evaluate --config CONFIG --checkpoint {place}`, `model.model` of a run |
"""


def _adapter_card(notes: CheckpointNotes, base: Path) -> str:
    place, whole = shlex.quote(str(notes.place)), shlex.quote(f"{notes.place}-whole")
    model = shlex.quote(str(base))
    merge = f"swift export --model {model} --model_type {MODEL_TYPE} --adapters {place} --merge_lora true"
    return f"""---
base_model: {base}
library_name: peft
---
# A {notes.method} adapter{" with coord offsets" if notes.offsets else ""} of CoordExp

Trained on `{base}`, without which it is nothing. Processor, tokenizer, chat template and generation config lie here
too; `checkpoint.json` holds digests of these weights and of the base's.
{_OFFSETS_NOTE if notes.offsets else ""}
One command makes a whole model of it, which every reader of Qwen3-VL takes (vLLM, a rollout server, `evaluate`,
`model.model` of a new run):

    {EXPORT_COMMAND} {place} --out {whole}

| reader | |
| --- | --- |
| peft | `PeftModel.from_pretrained(Qwen3VLForConditionalGeneration.from_pretrained("{base}"), "{notes.place}")` |
| ms-swift | `{merge}` |
| vLLM | the folder that the command above makes |
{_OFFSETS_TABLE if notes.offsets else ""}"""


_OFFSETS_NOTE = """
**peft alone does not know the coord offsets.** They move the embedding and the head on the 1000 coord tokens, and lie
in `coord_offset.safetensors`. What peft loads or merges, and what ms-swift merges, lacks them without a word, and
answers as another model.
"""
_OFFSETS_TABLE = """
The rows of peft and ms-swift give the model **without its offsets**.
"""
