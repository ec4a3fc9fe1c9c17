"""A model and records in, an evaluation out: generate, parse, compare. Contract ids: EVAL-006, EVAL-009, EVAL-016.

The same function serves the command line, the quick start and a trainer that evaluates a model it holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.evaluation.confidence import score_by_coords
from coordexp.evaluation.detections import ScoreMode, build_answer_parser, build_truth, parse_prediction
from coordexp.evaluation.report import EvaluationError, evaluate_detections
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import Decoding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import Qwen3VLForConditionalGeneration

    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder
    from coordexp.evaluation.types import DetectionReport, ImagePrediction, ImageTruth
    from coordexp.rollout.types import Progress, RolloutOutput, RolloutRequest


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How answers are generated and scored. `image_root` None means the folder of each record's file."""

    max_new_tokens: int = 512
    decode_batch_size: int = 32
    score_mode: ScoreMode = "confidence"
    image_root: Path | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "decode_batch_size"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation with all that led to it; the sequences are parallel and follow the records. `seconds` is
    generation.
    """

    report: DetectionReport
    truth: tuple[ImageTruth, ...]
    predictions: tuple[ImagePrediction, ...]
    requests: tuple[RolloutRequest, ...]
    outputs: tuple[RolloutOutput, ...]
    settings: GenerationSettings
    seconds: float


def evaluate_model(
    model: Qwen3VLForConditionalGeneration,
    encoder: Encoder,
    records: Sequence[Record],
    settings: GenerationSettings,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate `model` on `records`, with the prompts and the processor of `encoder`.

    Raises `EvaluationError` without records, and what encoding and generation raise for unfit ones.
    """
    if not records:
        raise EvaluationError("there are no records to evaluate")
    requests = build_requests(records, encoder, settings.image_root)
    parser, confident = build_answer_parser(encoder), settings.score_mode == "confidence"
    backend = HfBackend(
        model,
        encoder.processor,
        decode_batch_size=settings.decode_batch_size,
        logprobs=confident,
    )
    started = time.perf_counter()
    outputs = backend.generate(requests, Decoding(settings.max_new_tokens), progress)
    seconds = time.perf_counter() - started
    scorer = score_by_coords if confident else None
    truth = tuple(build_truth(record) for record in records)
    predictions = tuple(
        parse_prediction(output, record.width, record.height, parser, scorer)
        for output, record in zip(outputs, records, strict=True)
    )
    report = evaluate_detections(truth, predictions, score_mode=settings.score_mode)
    return Evaluation(report, truth, predictions, tuple(requests), tuple(outputs), settings, seconds)
