"""Writes an evaluation: report.json, predictions.jsonl, gallery.png. Contract ids: ART-005, ART-011.

The documents are `coordexp:evaluation-report` and `coordexp:evaluation-prediction`, checked before anything is written.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import hash_file, hash_weights, write_bytes, write_json, write_json_lines
from coordexp.coordjson import describe_failure
from coordexp.evaluation.gallery import GalleryItem, pick_examples, render_gallery
from coordexp.evaluation.report import render_report
from coordexp.evaluation.summary import render_headline
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from coordexp.evaluation.runner import Evaluation
    from coordexp.evaluation.types import Detection, ImagePrediction
    from coordexp.rollout.types import BackendSettings, Decoding, RolloutOutput

REPORT_NAME, PREDICTIONS_NAME, GALLERY_NAME = "report.json", "predictions.jsonl", "gallery.png"
GALLERY_IMAGES = 16


@dataclass(frozen=True, slots=True)
class EvaluatedFiles:
    """The checkpoint folder and the JSONL file that an evaluation is about."""

    checkpoint: Path
    jsonl: Path


def write_evaluation(folder: Path, evaluation: Evaluation, about: EvaluatedFiles) -> Path:
    """Write the three files into `folder` and return it. Files of an earlier evaluation there are replaced."""
    report = check(
        "evaluation-report", {**render_report(evaluation.report), "provenance": _provenance(evaluation, about)}
    )
    lines = [check("evaluation-prediction", line) for line in _lines(evaluation)]
    gallery = io.BytesIO()
    _gallery(evaluation, f"{about.checkpoint.name} · {render_headline(evaluation.report)}").save(
        gallery, "PNG", optimize=True
    )
    write_json_lines(folder / PREDICTIONS_NAME, lines)
    write_bytes(folder / GALLERY_NAME, gallery.getvalue())
    write_json(folder / REPORT_NAME, report)
    return folder


def _provenance(evaluation: Evaluation, about: EvaluatedFiles) -> dict[str, Any]:
    samples = evaluation.settings.samples
    return {
        **({} if samples is None else {"sampling": _decoding(samples.decoding)}),
        "checkpoint": str(about.checkpoint),
        "weights_sha256": hash_weights(about.checkpoint),
        "jsonl": str(about.jsonl),
        "jsonl_sha256": hash_file(about.jsonl),
        "max_new_tokens": evaluation.settings.decoding.max_new_tokens,
        "backend": _backend(evaluation.backend),
        "decoding": _decoding(evaluation.settings.decoding),
        "seconds": round(evaluation.seconds, 3),
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


def _lines(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    scored = evaluation.scored
    rows = zip(scored.truth, scored.predictions, evaluation.requests, evaluation.outputs, strict=True)
    for number, (truth, prediction, request, output) in enumerate(rows):
        parsed = prediction.parse
        failure = None
        if parsed.failure is not None:
            failure = {"reason": parsed.failure, "message": describe_failure(parsed)}
        yield {
            "sample_id": truth.sample_id,
            "image": str(request.image_paths[0]),
            "width": truth.width,
            "height": truth.height,
            **_answer(output, prediction),
            "failure": failure,
            "dropped": [{"reason": drop.reason, "offending": drop.excerpt} for drop in parsed.dropped],
            "ground_truth": [_detection(d) for d in truth.objects],
            **({} if not evaluation.samples else {"samples": list(_samples(evaluation, number))}),
        }


def _samples(evaluation: Evaluation, number: int) -> Iterator[dict[str, Any]]:
    """The sampled answers to the image of this number, in the order drawn."""
    for outputs, predictions in zip(evaluation.samples, evaluation.scored.samples, strict=True):
        yield _answer(outputs[number], predictions[number])


def _answer(output: RolloutOutput, prediction: ImagePrediction) -> dict[str, Any]:
    return {
        "text": output.text,
        "finish_reason": output.finish_reason,
        "response_tokens": len(output.response_token_ids),
        "truncated": prediction.parse.truncated,
        "predictions": [_detection(d) for d in prediction.detections],
    }


def _detection(detection: Detection) -> dict[str, Any]:
    return {"desc": detection.desc, "box": [round(v, 3) for v in detection.box], "score": round(detection.score, 6)}


def _gallery(evaluation: Evaluation, title: str) -> Image.Image:
    items, scored = [], evaluation.scored
    for index in pick_examples(scored.truth, GALLERY_IMAGES):
        (picture,) = evaluation.requests[index].read_images()
        items.append(GalleryItem(picture.image, scored.truth[index], scored.predictions[index]))
    return render_gallery(items, title=title)
