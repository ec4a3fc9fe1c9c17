"""From a configuration and a checkpoint folder to an evaluation. Contract id: EVAL-012.

What decides prompts and images comes from the configuration that trained the model; the rest is said on the command
line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config import ConfigError, resolve_input
from coordexp.coords.vocab import CoordVocabError
from coordexp.data.errors import DataError
from coordexp.data.paths import image_root
from coordexp.data.records import read_records
from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.checkpoint_record import check_recorded_vocabulary, check_recorded_weights
from coordexp.encode.encoder import build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.images import ImageContractError
from coordexp.encode.processor import ProcessorError, load_processor
from coordexp.encode.record_check import check_images
from coordexp.encode.rollout_parse import RolloutParserError
from coordexp.encode.settings import EncodeSettings, build_settings
from coordexp.encode.whole_model import check_whole_model
from coordexp.evaluation.annotated import read_annotations
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.runner import Evaluation, GenerationSettings, evaluate_model
from coordexp.forward.segments import SegmentAttentionError, register_segments
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.types import Progress, RolloutError

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.config import Config
    from coordexp.config.rollout_sections import RepeatTerminateConfig
    from coordexp.coords.vocab import CoordVocab

INPUT_ERRORS = (
    CheckpointFolderError,
    ConfigError,
    CoordVocabError,
    DataError,
    EncodeError,
    EvaluationError,
    ImageContractError,
    ProcessorError,
    RolloutError,
    RolloutParserError,
    SegmentAttentionError,
)
"""Everything that bad input can raise; each message stands alone."""


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What to evaluate. `limit` takes the first records of the file; None takes all. `repeats`, where enabled, ends
    answers that repeat themselves, as evaluation steps of the same configuration do. `annotations` is the file that the
    records were cooked from, whose boxes answers are compared with; None compares with the records. `coord_ids` are the
    first and last coord id that the configuration names, None where it names none.

    Raises `EvaluationError` for a limit or a `decode_batch_size` below 1.
    """

    checkpoint: Path
    jsonl: Path
    encoding: EncodeSettings
    generation: GenerationSettings
    limit: int | None = None
    decode_batch_size: int = 32
    torch_dtype: str = "float32"
    attn_impl: str = "sdpa"
    repeats: RepeatTerminateConfig | None = None
    annotations: Path | None = None
    coord_ids: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise EvaluationError(f"the limit must be at least 1, got {self.limit}")
        if self.decode_batch_size < 1:
            raise EvaluationError(f"decode_batch_size must be at least 1, got {self.decode_batch_size}")


def build_job(
    config: Config,
    checkpoint: Path,
    generation: GenerationSettings,
    *,
    jsonl: Path | None = None,
    limit: int | None = None,
    decode_batch_size: int = 32,
) -> EvaluationJob:
    """A job for a checkpoint that `config` trained; without `jsonl` it is about `custom.val_jsonl`.

    Sampled answers draw from the evaluation's own stream of `training.seed`.
    Raises `EvaluationError` without any records to evaluate on, `ConfigError` when the file is not there.
    """
    custom = config.custom
    if jsonl is None:
        if custom.val_jsonl is None:
            raise EvaluationError(f"{config.sources.path}: custom.val_jsonl is not set; set it or give --jsonl FILE")
        jsonl = resolve_input(config, "custom.val_jsonl", custom.val_jsonl)
    root = image_root(jsonl, os.environ)
    if custom.image_root is not None:
        root = resolve_input(config, "custom.image_root", custom.image_root)
    ids = custom.coord_offset.ids
    samples = None if generation.samples is None else generation.samples.seeded(config.training.seed)
    return EvaluationJob(
        checkpoint=checkpoint,
        jsonl=jsonl,
        encoding=build_settings(config),
        generation=replace(generation, image_root=root, samples=samples),
        limit=limit,
        decode_batch_size=decode_batch_size,
        torch_dtype=config.model.torch_dtype,
        attn_impl=config.model.attn_impl,
        repeats=None if config.rollout_matching is None else config.rollout_matching.repeat_terminate,
        coord_ids=None if ids is None else (ids.start, ids.end),
    )


def evaluate_checkpoint(job: EvaluationJob, progress: Progress | None = None) -> Evaluation:
    """Load the checkpoint onto the GPU, or the CPU where there is none, and evaluate it.

    Folder and data are read and checked before the model is loaded. Raises one of `INPUT_ERRORS` for bad input.
    """
    whole = check_whole_model(check_recorded_weights(job.checkpoint))
    records = read_records(job.jsonl)[: job.limit]
    annotations = None if job.annotations is None else read_annotations(job.annotations, job.jsonl, records)
    encoder = build_encoder(load_processor(job.checkpoint), job.encoding)
    check_images(encoder, records)
    check_recorded_vocabulary(job.checkpoint, encoder.tokenizer)
    check_coord_ids(job.checkpoint, job.coord_ids, encoder.coords, whole.rows)
    model = load_merged_model(job.checkpoint, job.torch_dtype, job.attn_impl)
    backend = HfBackend(
        model,
        encoder.processor,
        decode_batch_size=job.decode_batch_size,
        logprobs=job.generation.logprobs,
        repeats=job.repeats,
    )
    return evaluate_model(backend, encoder, records, job.generation, progress, annotations)


def check_coord_ids(checkpoint: Path, trained: tuple[int, int] | None, coords: CoordVocab, rows: int) -> None:
    """Raise `EvaluationError` unless the tokenizer's coord ids are rows of the model, and the ones that were trained,
    where the configuration names those.
    """
    found = (coords.first, coords.ids[-1])
    if found[1] >= rows:
        raise EvaluationError(
            f"{checkpoint}: its tokenizer's coord tokens end at {found[1]}, and the model has {rows} rows; "
            "evaluate a checkpoint with the tokenizer that it was trained with"
        )
    if trained is not None and trained != found:
        raise EvaluationError(
            f"{checkpoint}: its tokenizer's coord tokens are {found[0]}..{found[1]}, and the configuration's "
            f"custom.coord_offset.ids says {trained[0]}..{trained[1]}; give the configuration that trained "
            "the checkpoint, or correct the range"
        )


def load_merged_model(
    checkpoint: Path, torch_dtype: str, attn_impl: str, device: str | None = None
) -> Qwen3VLForConditionalGeneration:
    """A whole Qwen3-VL checkpoint in eval mode on `device` (the GPU, or the CPU where there is none); an adapter or an
    unreadable folder raises `EvaluationError`.
    """
    register_segments()
    model = _loaded(
        checkpoint, Qwen3VLForConditionalGeneration, dtype=getattr(torch, torch_dtype), attn_implementation=attn_impl
    )
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _loaded(checkpoint: Path, kind: Any, **options: Any) -> Any:
    try:
        return kind.from_pretrained(checkpoint, local_files_only=True, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise EvaluationError(f"{checkpoint}: cannot be loaded as a Qwen3-VL checkpoint: {reason}") from error
