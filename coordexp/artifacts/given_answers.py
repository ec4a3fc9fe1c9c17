"""Scores answers that exist already: a predictions.jsonl, or COCO results made elsewhere. EVAL-087..EVAL-090.

Enters: the file, and what its answers are compared with. Leaves: the evaluation's content, by the functions that score
a model's answers. Nothing is generated, and no model is needed. Bad input is one `EvaluationError` or `DataError`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.evaluation_files import (
    MADE_ELSEWHERE,
    REPORT_NAME,
    EvaluationContent,
    describe_annotations,
)
from coordexp.artifacts.files import hash_file
from coordexp.artifacts.stored_evaluation import read_answers
from coordexp.data.annotation_text import check_text, read_bytes
from coordexp.data.coco_results import check_no_annotations, parse_results
from coordexp.data.coco_rules import RESULTS_FORM
from coordexp.data.paths import image_root, resolve_image, resolve_record_images
from coordexp.data.records import read_records
from coordexp.evaluation.annotated import AnnotatedSet, read_all_annotations, read_annotations
from coordexp.evaluation.ceiling import add_ceiling
from coordexp.evaluation.coco import evaluate_coco
from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.detections import build_truth, in_truth_pixels, on_shown_image
from coordexp.evaluation.elsewhere import predictions_of
from coordexp.evaluation.report import EvaluationError, evaluate_detections
from coordexp.evaluation.runner import Scored
from coordexp.spec import ContractFileError, ContractViolation, check, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.artifacts.stored_evaluation import StoredAnswers
    from coordexp.data.types import Record
    from coordexp.evaluation.types import CocoEngine, ImagePrediction, ImageTruth, ScorePolicy

FORM = f"predictions.jsonl of an evaluation, or {RESULTS_FORM}"


@dataclass(frozen=True, slots=True)
class GivenAnswers:
    """What to score. `annotations` is the file to compare with, `jsonl` the records that were answered, `images` the
    folder of the annotation file's images; `limit` takes the first images, None takes all.

    Raises `EvaluationError` for a limit below 1.
    """

    predictions: Path
    annotations: Path | None = None
    jsonl: Path | None = None
    images: Path | None = None
    limit: int | None = None
    coco_engine: CocoEngine = "pycocotools"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise EvaluationError(f"the limit must be at least 1, got {self.limit}")


@without_collecting()
def score_given(given: GivenAnswers) -> EvaluationContent:
    """The evaluation of `given`, its report with a ceiling where there are records. Raises as the module says."""
    content = read_bytes(given.predictions, FORM)
    about = {"path": str(given.predictions), "sha256": hashlib.sha256(content).hexdigest()}
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return _score_results(given, content, about)
    check_no_annotations(content, str(given.predictions))
    return _score_own(given, about)


def _score_results(given: GivenAnswers, content: bytes, about: Mapping[str, Any]) -> EvaluationContent:
    if given.annotations is None:
        raise EvaluationError(
            f"--predictions {given.predictions}: they are COCO results, which name images and categories by the ids of "
            "an annotation file; give it with --annotations FILE"
        )
    results = parse_results(check_text(content, str(given.predictions), RESULTS_FORM))
    if given.jsonl is None:
        records: list[Record] = []
        annotations = read_all_annotations(given.annotations, given.limit)
        images, drawn = _images_of(annotations, given.images), given.images is not None
    else:
        _refuse_images(given)
        records = read_records(given.jsonl)[: given.limit]
        annotations = read_annotations(given.annotations, given.jsonl, records)
        root, drawn = image_root(given.jsonl, os.environ), True
        images = tuple(resolve_record_images(record, root)[0] for record in records)
    predictions, counts = predictions_of(results, annotations, str(given.predictions))
    told = {"predictions": {**about, "form": "coco-results", **asdict(counts)}}
    return EvaluationContent(
        scored=_score(given, (annotations.truths, predictions, ()), "given", records),
        images=images,
        answers=(MADE_ELSEWHERE,) * len(predictions),
        samples=(),
        annotations=annotations,
        provenance=_provenance(given, told, annotations),
        title=given.predictions.name,
        folder=(given.annotations if given.jsonl is None else given.jsonl).parent,
        drawn=drawn,
    )


def _images_of(annotations: AnnotatedSet, folder: Path | None) -> tuple[Path, ...]:
    """The images' files, below `folder` where one is given."""
    if folder is None:
        return tuple(map(Path, annotations.files))
    if not folder.is_dir():
        raise EvaluationError(f"--images {folder}: no such folder; name the one that the file's image names start from")
    remedy = "name the folder that the file's image names start from"
    return tuple(resolve_image(annotations.path, name, folder, remedy=remedy) for name in annotations.files)


def _score_own(given: GivenAnswers, about: Mapping[str, Any]) -> EvaluationContent:
    _refuse_images(given)
    stored = read_answers(given.predictions)
    stored = stored.chosen(range(len(stored.truth))[: given.limit])
    truth, predictions, samples = stored.truth, stored.predictions, stored.samples
    records, annotations = _records(given, stored), None
    if given.annotations is not None:
        if given.jsonl is None:
            raise EvaluationError(
                f"--predictions {given.predictions} with --annotations {given.annotations}: which of its images each "
                "answer is for stands in the records alone; give them with --jsonl FILE too"
            )
        annotations = read_annotations(given.annotations, given.jsonl, records)
        truth = tuple(map(_kept, annotations.truths, stored.truth))
        predictions, *drawn = (_moved(row, (stored.truth, truth), annotations) for row in (predictions, *samples))
        samples = tuple(drawn)
    made_by = _made_by(given.predictions, about["sha256"])
    told = {"predictions": {**about, "form": "predictions.jsonl"} | ({} if made_by is None else {"made_by": made_by})}
    return EvaluationContent(
        scored=_score(given, (truth, predictions, samples), stored.score_mode, records),
        images=stored.images,
        answers=stored.written,
        samples=stored.sampled,
        annotations=annotations,
        provenance=_provenance(given, told, annotations),
        title=given.predictions.name,
        folder=given.predictions.parent,
    )


def _refuse_images(given: GivenAnswers) -> None:
    if given.images is not None:
        raise EvaluationError(
            f"--images {given.images}: it is for COCO results with --annotations and without --jsonl; here the "
            "images' places are known already. Leave it out"
        )


def _records(given: GivenAnswers, stored: StoredAnswers) -> list[Record]:
    """The records that the stored answers are for, in their order; none without a file of records."""
    if given.jsonl is None:
        return []
    by_line = {_line(record.source): record for record in read_records(given.jsonl)}
    chosen = []
    for image in stored.truth:
        record = by_line.get(_line(image.sample_id))
        if record is None or not _same(image, record):
            raise EvaluationError(
                f"--jsonl {given.jsonl}: {given.predictions} holds an answer for {image.sample_id}, and line "
                f"{_line(image.sample_id)} there is {'missing' if record is None else 'another record'}; give the file "
                "that was answered"
            )
        chosen.append(record)
    return chosen


def _line(sample_id: str) -> str:
    return sample_id.rpartition(":")[2]


def _same(image: ImageTruth, record: Record) -> bool:
    """Whether a stored truth can be that of `record`; one that is an annotation file's tells by its size alone."""
    own = build_truth(record)
    return image.shown == own.shown and (image.annotated is not None or image.objects == own.objects)


def _kept(new: ImageTruth, old: ImageTruth) -> ImageTruth:
    return replace(new, sample_id=old.sample_id, answer_tokens=old.answer_tokens)


def _moved(
    answers: Sequence[ImagePrediction],
    truths: tuple[Sequence[ImageTruth], Sequence[ImageTruth]],
    annotations: AnnotatedSet,
) -> tuple[ImagePrediction, ...]:
    """Stored answers to the first truths in pixels of the second, which are of `annotations`, and in its names."""
    names = annotations.names
    rows = zip(answers, *truths, strict=True)
    return tuple(
        names.rename(
            answer
            if (old.width, old.height, old.shown) == (new.width, new.height, new.shown)
            else in_truth_pixels(new, on_shown_image(old, answer)[1])
        )
        for answer, old, new in rows
    )


def _score(
    given: GivenAnswers,
    compared: tuple[Sequence[ImageTruth], Sequence[ImagePrediction], Sequence[Sequence[ImagePrediction]]],
    score_mode: ScorePolicy,
    records: Sequence[Record],
) -> Scored:
    truth, predictions, samples = compared
    coco = partial(evaluate_coco, engine=given.coco_engine)
    report = evaluate_detections(truth, predictions, score_mode=score_mode, samples=samples, coco=coco)
    if records:
        report = add_ceiling(report, truth, records)
    return Scored(report, tuple(truth), tuple(predictions), tuple(map(tuple, samples)))


def _provenance(given: GivenAnswers, told: Mapping[str, Any], annotations: AnnotatedSet | None) -> dict[str, Any]:
    records = {} if given.jsonl is None else {"jsonl": str(given.jsonl), "jsonl_sha256": hash_file(given.jsonl)}
    file = {} if annotations is None else {"annotations": describe_annotations(annotations)}
    return {**told, **records, **file}


def _made_by(predictions: Path, sha256: str) -> dict[str, Any] | None:
    """What the report beside the predictions says of how they were made; None unless it is of these very bytes."""
    try:
        report = check("evaluation-report", read_json(predictions.parent / REPORT_NAME))
    except (ContractFileError, ContractViolation):
        return None
    provenance = report.get("provenance", {})
    return provenance if provenance.get("predictions_sha256") == sha256 else None
