"""Writes an evaluation: report.json, predictions.jsonl, coco_results.json, gallery.png. ART-005, ART-011, ART-015..017.

The documents are `coordexp:evaluation-report`, `coordexp:evaluation-prediction` and, for answers compared with an
annotation file, `coordexp:evaluation-coco-results`; they are checked before anything is written. The picture comes
last: one that cannot be drawn is a warning, and costs nothing else.
"""

from __future__ import annotations

import hashlib
import io
import logging
import struct
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import hash_file, hash_weights, render_json_line, write_bytes, write_json
from coordexp.artifacts.folders import FolderError
from coordexp.coordjson import describe_failure
from coordexp.data.pictures import read_picture
from coordexp.evaluation.coco import file_box, ranked_predictions
from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.detections import on_shown_image
from coordexp.evaluation.gallery import GalleryItem, pick_examples, render_gallery
from coordexp.evaluation.plain_text import plain
from coordexp.evaluation.report import render_report
from coordexp.evaluation.summary import render_headline
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from coordexp.evaluation.annotated import AnnotatedSet
    from coordexp.evaluation.runner import Evaluation, Scored
    from coordexp.evaluation.types import Detection, FileImage, ImagePrediction, ImageTruth
    from coordexp.rollout.types import BackendSettings, Decoding, FinishReason, RolloutOutput

REPORT_NAME, PREDICTIONS_NAME, GALLERY_NAME = "report.json", "predictions.jsonl", "gallery.png"
RESULTS_NAME = "coco_results.json"
GALLERY_IMAGES = 16
_LOG = logging.getLogger(__name__)
PICTURE_FAULTS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow raises over a file, a font or a text that it cannot digest."""


@dataclass(frozen=True, slots=True)
class EvaluatedFiles:
    """The checkpoint folder and the JSONL file that an evaluation is about."""

    checkpoint: Path
    jsonl: Path


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """What an answer's line says of it beside its objects, all None for boxes that were made elsewhere. `failure` is in
    words, None for a strictly well-formed answer.
    """

    text: str | None
    finish_reason: FinishReason | None
    response_tokens: int | None
    failure: str | None = None


MADE_ELSEWHERE = WrittenAnswer(None, None, None)


@dataclass(frozen=True, eq=False)
class EvaluationContent:
    """All that the files hold; `images` (files), `answers` and each of `samples` follow the images of `scored`.

    `title` names in the picture what was evaluated, and `folder` is where the records lie; `drawn` says whether there
    are pictures to draw.
    """

    scored: Scored
    images: tuple[Path, ...]
    answers: tuple[WrittenAnswer, ...]
    samples: tuple[tuple[WrittenAnswer, ...], ...]
    annotations: AnnotatedSet | None
    provenance: Mapping[str, Any]
    title: str
    folder: Path
    drawn: bool = True


def write_evaluation(folder: Path, evaluation: Evaluation, about: EvaluatedFiles) -> Path:
    """Write the files into `folder` and return it. Those of an earlier evaluation there are replaced or removed."""
    content = EvaluationContent(
        scored=evaluation.scored,
        images=tuple(request.image_paths[0] for request in evaluation.requests),
        answers=_written(evaluation.outputs, evaluation.scored.predictions),
        samples=tuple(map(_written, evaluation.samples, evaluation.scored.samples)),
        annotations=evaluation.annotations,
        provenance=_provenance(evaluation, about),
        title=about.checkpoint.name,
        folder=about.jsonl.parent,
    )
    return write_content(folder, content)


@without_collecting()
def write_content(folder: Path, content: EvaluationContent) -> Path:
    """Write the files of an evaluation, whoever answered, into `folder` and return it."""
    lines = b"".join(render_json_line(check("evaluation-prediction", line)) for line in _lines(content))
    provenance = {**content.provenance, "predictions_sha256": hashlib.sha256(lines).hexdigest()}
    report = check("evaluation-report", {**render_report(content.scored.report), "provenance": provenance})
    results = None
    if content.annotations is not None:
        results = check("evaluation-coco-results", list(coco_results(content.scored, content.annotations)))
    for name in (REPORT_NAME, RESULTS_NAME, GALLERY_NAME):
        (folder / name).unlink(missing_ok=True)
    write_bytes(folder / PREDICTIONS_NAME, lines)
    if results is not None:
        write_json(folder / RESULTS_NAME, results)
    write_json(folder / REPORT_NAME, report)
    if content.drawn:
        _write_gallery(folder / GALLERY_NAME, content)
    return folder


def check_apart(folder: Path, source: Path) -> Path:
    """Return `folder` unless writing an evaluation there would replace `source`. Raises `FolderError`."""
    for name in (REPORT_NAME, PREDICTIONS_NAME, RESULTS_NAME, GALLERY_NAME):
        if (folder / name).exists() and source.exists() and (folder / name).samefile(source):
            raise FolderError(f"{folder}: {name} there is the file that is read, and would be lost; write elsewhere")
    return folder


def _written(outputs: Sequence[RolloutOutput], predictions: Sequence[ImagePrediction]) -> tuple[WrittenAnswer, ...]:
    return tuple(
        WrittenAnswer(
            output.text,
            output.finish_reason,
            len(output.response_token_ids),
            None if found.parse.failure is None else describe_failure(found.parse),
        )
        for output, found in zip(outputs, predictions, strict=True)
    )


def _provenance(evaluation: Evaluation, about: EvaluatedFiles) -> dict[str, Any]:
    samples = evaluation.settings.samples
    return {
        **({} if samples is None else {"sampling": _decoding(samples.decoding)}),
        **({} if evaluation.annotations is None else {"annotations": describe_annotations(evaluation.annotations)}),
        "checkpoint": str(about.checkpoint),
        "weights_sha256": hash_weights(about.checkpoint),
        "jsonl": str(about.jsonl),
        "jsonl_sha256": hash_file(about.jsonl),
        "max_new_tokens": evaluation.settings.decoding.max_new_tokens,
        "backend": _backend(evaluation.backend),
        "decoding": _decoding(evaluation.settings.decoding),
        "seconds": round(evaluation.seconds, 3),
    }


def describe_annotations(annotations: AnnotatedSet) -> dict[str, Any]:
    """What a report says of the annotation file that it is about."""
    return {
        "path": str(annotations.path),
        "sha256": annotations.sha256,
        "images_without_record": annotations.images_without_record,
        "categories_left_out": list(annotations.left_out),
        "categories_shared": annotations.shared,
    }


def coco_results(scored: Scored, annotations: AnnotatedSet) -> Iterator[dict[str, Any]]:
    """The scored predictions as COCO's results, in the order in which COCO ranks equal scores."""
    for image, answer in zip(scored.truth, scored.predictions, strict=True):
        for found in ranked_predictions(image, answer):
            if image.annotated is not None and found.desc in annotations.categories:
                yield {
                    "image_id": image.annotated.image_id,
                    "category_id": annotations.categories[found.desc],
                    "bbox": list(file_box(found)),
                    "score": found.score,
                }


def _backend(backend: BackendSettings) -> dict[str, Any]:
    return {
        "name": backend.name,
        "dtype": backend.dtype,
        "decode_batch_size": backend.decode_batch_size,
        "repeat_terminate": backend.repeat_terminate,
    }


def _decoding(decoding: Decoding) -> dict[str, Any]:
    return {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k,
        "repetition_penalty": decoding.repetition_penalty,
        "seed_base": decoding.seed_base,
        "grammar": decoding.grammar is not None,
    }


def _lines(content: EvaluationContent) -> Iterator[dict[str, Any]]:
    scored = content.scored
    rows = zip(scored.truth, scored.predictions, content.images, content.answers, strict=True)
    for number, (truth, prediction, image, answer) in enumerate(rows):
        parsed = prediction.parse
        failure = None if parsed.failure is None else {"reason": parsed.failure, "message": answer.failure}
        yield {
            "sample_id": truth.sample_id,
            "image": str(image),
            "width": truth.width,
            "height": truth.height,
            "score_mode": scored.report.score_mode,
            **_answer(answer, prediction),
            "failure": failure,
            "dropped": [{"reason": drop.reason, "offending": drop.excerpt} for drop in parsed.dropped],
            "ground_truth": [_detection(d) for d in truth.objects],
            "answer_tokens": truth.answer_tokens,
            "parse": {
                "invalid_rollout": parsed.invalid_rollout,
                "malformed_tail": parsed.malformed_tail,
                "token_limit": prediction.token_limit,
            },
            **_scope(truth),
            **({} if truth.annotated is None else {"annotated": _annotated(truth.annotated)}),
            **({} if not content.samples else {"samples": list(_samples(content, number))}),
        }


def _scope(truth: ImageTruth) -> dict[str, Any]:
    """What is not scored, and the split; absent where there is nothing to say."""
    return {
        **({} if truth.split is None else {"split": truth.split}),
        **({} if not truth.ignore else {"ignore": [{"desc": r.desc, "box": list(r.box)} for r in truth.ignore]}),
        **({} if truth.verified_absent is None else {"verified_absent": sorted(truth.verified_absent)}),
    }


def _annotated(image: FileImage) -> dict[str, Any]:
    return {
        "image_id": image.image_id,
        "shown": list(image.shown),
        "rows": [{"bbox": list(row.bbox), "area": row.area, "place": row.place} for row in image.rows],
    }


def _samples(content: EvaluationContent, number: int) -> Iterator[dict[str, Any]]:
    """The sampled answers to the image of this number, in the order drawn."""
    for answers, predictions in zip(content.samples, content.scored.samples, strict=True):
        yield {**_answer(answers[number], predictions[number]), "strict": predictions[number].parse.strict}


def _answer(answer: WrittenAnswer, prediction: ImagePrediction) -> dict[str, Any]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "response_tokens": answer.response_tokens,
        "truncated": prediction.parse.truncated,
        "predictions": [_detection(d) for d in prediction.detections],
        **({} if prediction.unmapped is None else {"unmapped": sorted(prediction.unmapped)}),
    }


def _detection(detection: Detection) -> dict[str, Any]:
    # Written in full: what is scored again from here gives the same digits.
    return {
        "desc": detection.desc,
        "box": list(detection.box),
        "score": detection.score,
        **({} if detection.said is None else {"said": detection.said}),
        **({} if detection.bbox is None else {"bbox": list(detection.bbox)}),
    }


def _write_gallery(path: Path, content: EvaluationContent) -> None:
    """Draw what can be drawn; a picture that fails is named in a warning, and so is a page."""
    items = list(_gallery_items(content))
    title = f"{content.title} · {render_headline(content.scored.report)}"
    page = io.BytesIO()
    if not items:
        _LOG.warning("%s is not written: none of its pictures can be drawn", plain(str(path)))
        return
    try:
        render_gallery(items, title=title).save(page, "PNG")
    except PICTURE_FAULTS as error:
        _LOG.warning("%s is not written: it cannot be drawn (%s)", plain(str(path)), plain(str(error)))
        return
    write_bytes(path, page.getvalue())


def _gallery_items(content: EvaluationContent) -> Iterator[GalleryItem]:
    """The pictures of some images with truth and answer in their pixels, each with a name from the records' folder."""
    scored = content.scored
    for index in pick_examples(scored.truth, GALLERY_IMAGES):
        path = content.images[index]
        truth, prediction = on_shown_image(scored.truth[index], scored.predictions[index])
        try:
            picture = read_picture(path, (truth.width, truth.height))
            item = GalleryItem(picture.image, truth, prediction, _caption(truth.sample_id, content.folder))
            # Drawn alone first: what one picture cannot take must not cost the others.
            render_gallery([item])
        except PICTURE_FAULTS as error:
            _LOG.warning("%s is left out of the gallery: %s", plain(str(path)), plain(str(error)))
            continue
        yield item


def _caption(sample_id: str, folder: Path) -> str:
    """The sample's file and line as seen from the records' folder; never an absolute path."""
    path = PurePath(sample_id)
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return path.name if path.is_absolute() else sample_id
