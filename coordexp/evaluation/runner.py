"""A rollout backend and records in, an evaluation out: generate, parse, compare. Contract ids: EVAL-006, EVAL-009,
EVAL-014, EVAL-019, EVAL-020.

The same functions serve the command line, the quick start and a trainer that evaluates its own policy: `evaluate_model`
asks a backend for all answers, `score_outputs` takes answers that were made anywhere, on several ranks for example.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from coordexp.evaluation.ceiling import add_ceiling
from coordexp.evaluation.coco import evaluate_coco
from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.confidence import score_by_coords
from coordexp.evaluation.detections import (
    ScoreMode,
    build_answer_parser,
    build_truths,
    in_truth_pixels,
    parse_prediction,
)
from coordexp.evaluation.report import EvaluationError, evaluate_detections
from coordexp.evaluation.sampling import SampleSettings, build_sample_requests
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import BackendSettings, Decoding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from coordexp.coordjson import ParsedRollout
    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder
    from coordexp.encode.rollout_parse import RolloutParser
    from coordexp.evaluation.annotated import AnnotatedSet
    from coordexp.evaluation.names import CategoryNames
    from coordexp.evaluation.report import CocoEvaluator
    from coordexp.evaluation.types import CocoEngine, DetectionReport, ImagePrediction, ImageTruth
    from coordexp.rollout.types import Progress, RolloutBackend, RolloutOutput, RolloutRequest

DEFAULT_MAX_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How answers are asked for and scored, and which are sampled beside them for recall at K.

    `image_root` None means the folder of each record's file.
    """

    decoding: Decoding = field(default_factory=lambda: Decoding(DEFAULT_MAX_NEW_TOKENS))
    score_mode: ScoreMode = "confidence"
    image_root: Path | None = None
    samples: SampleSettings | None = None
    coco_engine: CocoEngine = "pycocotools"

    def constrained(self, expression: str) -> GenerationSettings:
        """The same, with all answers written by `expression`, the sampled ones too."""
        samples = self.samples
        if samples is not None:
            samples = replace(samples, decoding=replace(samples.decoding, grammar=expression))
        return replace(self, decoding=replace(self.decoding, grammar=expression), samples=samples)

    @property
    def logprobs(self) -> bool:
        """Whether scores need the log-probabilities of an answer's tokens."""
        return self.score_mode == "confidence"


@dataclass(frozen=True, slots=True)
class Scoring:
    """Where a prediction's score comes from; with mode `constant` each has the same. With `names` descriptions become
    the annotation file's.
    """

    mode: ScoreMode
    constant: float = 1.0
    names: CategoryNames | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """A report with what it compares; the sequences follow the records, as each sample in `samples` does."""

    report: DetectionReport
    truth: tuple[ImageTruth, ...]
    predictions: tuple[ImagePrediction, ...]
    samples: tuple[tuple[ImagePrediction, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation with all that led to it; `requests`, `outputs` and each sample in `samples` follow the records.
    `seconds` is generation. `annotations` is the file that the truth is from, None for the records themselves.
    """

    scored: Scored
    requests: tuple[RolloutRequest, ...]
    outputs: tuple[RolloutOutput, ...]
    settings: GenerationSettings
    backend: BackendSettings
    seconds: float
    samples: tuple[tuple[RolloutOutput, ...], ...] = ()
    annotations: AnnotatedSet | None = None

    @property
    def report(self) -> DetectionReport:
        """The outcome."""
        return self.scored.report


def evaluate_model(
    backend: RolloutBackend,
    encoder: Encoder,
    records: Sequence[Record],
    settings: GenerationSettings,
    progress: Progress | None = None,
    annotations: AnnotatedSet | None = None,
) -> Evaluation:
    """Evaluate the policy behind `backend` on `records`, with the prompts of `encoder`.

    Answers are compared with the objects of the records, or with those of `annotations`; the report states its ceiling.
    Raises `EvaluationError` without records, and for scores that `backend` gives no log-probabilities for; and what
    encoding and generation raise for unfit records.
    """
    if not records:
        raise EvaluationError("there are no records to evaluate")
    if settings.logprobs and not backend.settings.logprobs:
        raise EvaluationError(
            f"score_mode {settings.score_mode!r} needs the tokens' log-probabilities, and the {backend.settings.name} "
            "backend gives none: build it with logprobs=True, or score with 'constant'"
        )
    parser = build_answer_parser(encoder)
    truth = build_truths(records, encoder)
    if annotations is not None:
        truth = annotations.with_lengths(truth)
    requests = build_requests(records, encoder, settings.image_root)
    started = time.perf_counter()
    count = 0 if settings.samples is None else settings.samples.count
    told = _Told(progress, len(requests) * (1 + count))
    outputs = backend.generate(requests, settings.decoding, told)
    samples: list[tuple[RolloutOutput, ...]] = []
    if settings.samples is not None:
        told.done = len(requests)
        drawn = backend.generate(build_sample_requests(requests, count), settings.samples.decoding, told)
        samples = [tuple(drawn[at : at + len(requests)]) for at in range(0, len(drawn), len(requests))]
    seconds = time.perf_counter() - started
    coco = partial(evaluate_coco, engine=settings.coco_engine)
    scoring = Scoring(settings.score_mode, names=None if annotations is None else annotations.names)
    scored = score_outputs(parser, truth, outputs, scoring, samples, coco=coco)
    scored = replace(scored, report=add_ceiling(scored.report, truth, records))
    return Evaluation(
        scored, tuple(requests), tuple(outputs), settings, backend.settings, seconds, tuple(samples), annotations
    )


@without_collecting()
def score_outputs(
    parser: RolloutParser,
    truth: Sequence[ImageTruth],
    outputs: Sequence[RolloutOutput],
    scoring: Scoring,
    samples: Sequence[Sequence[RolloutOutput]] = (),
    *,
    coco: CocoEvaluator = evaluate_coco,
) -> Scored:
    """Parse `outputs`, `outputs[i]` for the image of `truth[i]`, and compare them with it; each of `samples` holds a
    sampled answer for every image likewise. Generates nothing.

    `coco` computes COCO's numbers, or stands in for them. `parser` is one of `build_answer_parser`. Raises
    `EvaluationError` for an output of another image.
    """

    def constant(_: RolloutOutput, parsed: ParsedRollout) -> tuple[float, ...]:
        return (scoring.constant,) * len(parsed.objects)

    scorer = score_by_coords if scoring.mode == "confidence" else constant

    def parse(answers: Sequence[RolloutOutput]) -> tuple[ImagePrediction, ...]:
        if [output.sample_id for output in answers] != [image.sample_id for image in truth]:
            raise EvaluationError(
                f"{len(answers)} answers do not follow the {len(truth)} images one by one; gather them in request order"
            )
        found = (
            in_truth_pixels(image, parse_prediction(output, *image.shown, parser, scorer))
            for output, image in zip(answers, truth, strict=True)
        )
        return tuple(found if scoring.names is None else map(scoring.names.rename, found))

    predictions, sampled = parse(outputs), tuple(parse(sample) for sample in samples)
    report = evaluate_detections(truth, predictions, score_mode=scoring.mode, samples=sampled, coco=coco)
    return Scored(report, tuple(truth), predictions, sampled)


@dataclass(slots=True)
class _Told:
    """Tells `progress` of one call of a backend as a part of `total` answers, of which `done` are finished before."""

    progress: Progress | None
    total: int
    done: int = 0

    def __call__(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.done + done, self.total)
