"""What a run would stumble over later, asked before data is read or weights are loaded.

Contract ids: TRAIN-023, TRAIN-024.

In: a configuration; out: what is known of the checkpoint it starts from, or one `ConfigError` with every key, folder
and file that the run cannot use. The dry run asks the same, so both say the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.artifacts.folders import FolderError, check_room, check_writable, traces_of_run
from coordexp.artifacts.whole_folder import partial_folders
from coordexp.bridges.vision_bounds import SEGMENTS
from coordexp.config import (
    Config,
    ConfigError,
    Problem,
    build_problem,
    check_trainable,
    resolve_input,
    resolve_output,
    units_per_step,
)
from coordexp.config.checks import SHARDED_WEIGHTS, ZERO_PRESETS
from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.checkpoint_record import check_recorded_weights
from coordexp.encode.whole_model import WholeModel, check_whole_model
from coordexp.forward.segments import SegmentAttentionError, load_kernel
from coordexp.packing.backend import UnprovenBackend, check_packing_backend
from coordexp.spec import ContractFileError, read_json
from coordexp.training.arguments import world_size
from coordexp.training.ranks import is_first_rank

if TYPE_CHECKING:
    from coordexp.coords.vocab import CoordVocab

_FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STAGE_OF_WEIGHTS = "3"


def check_run(config: Config) -> WholeModel:
    """The whole model that a run of `config` starts from, on this machine. Nothing is written or loaded.

    Raises `ConfigError` with every problem at its key. Of several ranks the first alone looks at the folders that are
    written, since it is the one that writes them and may have begun, and reads the weights whose digests it knows.
    """
    check_trainable(config)
    model, problems = _starting_point(config)
    for check in (_batch_problems, _device_problems, _deepspeed_problems):
        problems += check(config)
    problems += _attention_problems(config, model)
    problems += _served_problems(config, model)
    if is_first_rank():
        problems += _folder_problems(config, model)
    if problems or model is None:
        raise ConfigError(str(config.sources.path), problems)
    return model


def check_vocabulary(config: Config, coords: CoordVocab, model: WholeModel) -> None:
    """The tokenizer's coord ids are those that the configuration expects, and rows of the model.

    Raises `ConfigError`; the ids that were asked for stand under `custom.coord_offset.ids`.
    """
    expected = config.custom.coord_offset.ids
    problems = []
    if expected is not None and (expected.start, expected.end) != (coords.first, coords.ids[-1]):
        text = f"is {expected.start}..{expected.end}, but the tokenizer's coord tokens are {coords.first}.."
        text += f"{coords.ids[-1]}; correct the range or leave it out"
        problems.append(build_problem(config, "custom.coord_offset.ids", text))
    if coords.ids[-1] >= model.rows:
        text = f"the tokenizer's coord tokens end at {coords.ids[-1]}, and the model has {model.rows} rows"
        problems.append(build_problem(config, "model.model", f"{text}; resize its embedding to the tokenizer first"))
    if problems:
        raise ConfigError(str(config.sources.path), problems)


def _starting_point(config: Config) -> tuple[WholeModel | None, list[Problem]]:
    try:
        model = check_whole_model(resolve_input(config, "model.model", config.model.model))
        if is_first_rank():
            check_recorded_weights(model.folder)
    except ConfigError as error:
        return None, list(error.problems)
    except CheckpointFolderError as error:
        return None, [build_problem(config, "model.model", str(error))]
    if model.quantized:
        text = f"{model.folder}: its weights are quantized, and only plain ones are trained; name the plain checkpoint"
        return model, [build_problem(config, "model.model", text)]
    return model, []


def _batch_problems(config: Config) -> Iterator[Problem]:
    try:
        units_per_step(config, world_size())
    except ConfigError as error:
        yield from error.problems


def _device_problems(config: Config) -> Iterator[Problem]:
    """An autocast type is one that the device applies: accelerate drops fp16 on a CPU without a word."""
    training = config.training
    if not (training.fp16 or training.bf16):
        return
    import torch

    gpu = torch.cuda.is_available()
    if training.fp16 and not gpu:
        text = "float16 autocast is applied on a GPU alone, and torch finds none here, so it would change nothing"
        yield build_problem(config, "training.fp16", f"{text}; leave it out, or write bf16: true, which a CPU applies")
    if training.bf16 and gpu and not torch.cuda.is_bf16_supported():
        text = "this GPU does not compute in bfloat16; write fp16: true, or neither"
        yield build_problem(config, "training.bf16", text)


def _attention_problems(config: Config, model: WholeModel | None) -> Iterator[Problem]:
    name = config.model.attn_impl
    if name == SEGMENTS:
        yield from (build_problem(config, "model.attn_impl", text) for text in _segment_faults(model))
    package = _FLASH.get(name)
    if package is not None and find_spec(package) is None:
        text = f"{name} needs the package {package}, which is not installed here; write sdpa"
        yield build_problem(config, "model.attn_impl", text)
    if config.training.packing:
        try:
            check_packing_backend(name)
        except UnprovenBackend as error:
            yield build_problem(config, "model.attn_impl", str(error))


def _segment_faults(model: WholeModel | None) -> Iterator[str]:
    """Why the project's own attention cannot train this model here."""
    import torch

    if model is not None and model.attention_dropout:
        text = f"{model.folder / 'config.json'} asks for attention_dropout {model.attention_dropout}, and {SEGMENTS} "
        yield f"{text}has none: set it to 0 there, or write sdpa"
    if torch.cuda.is_available():
        try:
            load_kernel()
        except SegmentAttentionError as error:
            yield str(error)


def _served_problems(config: Config, model: WholeModel | None) -> Iterator[Problem]:
    """A rollout server takes a tied head for the embedding, whatever offsets the head has of its own."""
    section, offsets = config.rollout_matching, config.custom.coord_offset
    if section is None or model is None or section.rollout_backend != "vllm":
        return
    if model.tied and offsets.enabled and not offsets.tie_head:
        text = f"false gives the head offsets of its own, and {model.folder / 'config.json'} ties it to the embedding, "
        text += "so a rollout server would drop them; write true, or rollout_matching.rollout_backend: hf"
        yield build_problem(config, "custom.coord_offset.tie_head", text)


def _deepspeed_problems(config: Config) -> Iterator[Problem]:
    written = config.deepspeed.config
    if not config.deepspeed.enabled or written is None:
        return
    if find_spec("deepspeed") is None:
        text = "DeepSpeed is not installed here; install it, or write enabled: false"
        yield build_problem(config, "deepspeed.enabled", text)
    if written in ZERO_PRESETS:
        return
    try:
        path = resolve_input(config, "deepspeed.config", written)
        document = read_json(path)
    except ConfigError as error:
        yield from error.problems
    except ContractFileError as error:
        yield build_problem(config, "deepspeed.config", str(error))
    else:
        yield from (build_problem(config, "deepspeed.config", f"{path}: {text}") for text in _file_faults(document))


def _file_faults(document: object) -> Iterator[str]:
    """What is wrong with a DeepSpeed file; ZeRO's stage counts as 0 where the file names none, as in DeepSpeed."""
    if not isinstance(document, dict):
        yield "holds no JSON object"
        return
    zero = {"zero_optimization": {}, **document}["zero_optimization"]
    if not isinstance(zero, dict):
        yield "zero_optimization is no JSON object"
    elif str({"stage": 0, **zero}["stage"]) == _STAGE_OF_WEIGHTS:
        yield SHARDED_WEIGHTS


def _folder_problems(config: Config, model: WholeModel | None) -> Iterator[Problem]:
    training, custom = config.training, config.custom
    output = resolve_output(config, training.output_dir)
    held = () if training.add_version else traces_of_run(output)
    if held:
        text = f"{output} holds a run or a checkpoint already ({', '.join(held[:4])}), and two in one folder mix their "
        text += "weights; write another folder, or training.add_version: true for a fresh one below it"
        text += "".join(f"; {told}" for told in partial_notes(output))
        yield build_problem(config, "training.output_dir", text)
    folders = {"training.output_dir": output, "training.logging_dir": resolve_output(config, training.logging_dir)}
    if custom.dump_conversation_text and custom.dump_conversation_path is not None:
        dump = resolve_output(config, custom.dump_conversation_path)
        folders["custom.dump_conversation_path"] = dump.parent
        if os.path.isdir(dump):
            text = f"{dump} is a folder; write the path of a file"
            yield build_problem(config, "custom.dump_conversation_path", text)
    for key, folder in folders.items():
        try:
            check_writable(folder)
        except FolderError as error:
            yield build_problem(config, key, str(error))
        else:
            if model is not None and key == "training.output_dir":
                yield from _room_problems(config, model, output)


def partial_notes(output: Path) -> tuple[str, ...]:
    """What killed saves have left in a run's folder, or in those of its versions, and what to do with it."""
    return tuple(
        f"{path} is what a save that was killed has left, and holds no whole checkpoint: delete it"
        for path in partial_folders(output)
    )


def _room_problems(config: Config, model: WholeModel, output: Path) -> Iterator[Problem]:
    try:
        check_room(output, checkpoint_bytes(config, model))
    except FolderError as error:
        yield build_problem(config, "training.output_dir", str(error))


def checkpoint_bytes(config: Config, model: WholeModel) -> int:
    """About what one checkpoint takes on disk: the weights in their type, or at most an adapter's on every matrix."""
    if config.tuner.tuner_type == "full":
        return model.parameters * _ITEM_BYTES[config.model.torch_dtype]
    sides = sum(sum(shape) for shape in model.shapes.values() if len(shape) == 2)
    return config.tuner.lora_rank * sides * _ITEM_BYTES["float32"]
