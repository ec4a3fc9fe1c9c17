"""Pictures in, a folder of answers about them out, batch by batch, so that a kill costs a batch. EVAL-073, EVAL-076.

What stands in the folder is not asked again; a picture that cannot be read is named at the end and stops nothing.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.evaluation_files import PICTURE_FAULTS
from coordexp.artifacts.files import hash_weights, write_bytes
from coordexp.artifacts.prediction_files import DRAWN_NAME, AnswerFolder, PredictionError, render_line, writing
from coordexp.data.pictures import read_picture
from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.evaluation.gallery import render_answer
from coordexp.evaluation.plain_text import plain
from coordexp.evaluation.prediction import Predictor, Unanswered
from coordexp.evaluation.types import Detection
from coordexp.rollout.server_plugin.repeats import digest_in_force

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.rollout.types import Progress

_LOG = logging.getLogger(__name__)
_SHOWN_NAME = ".shown"
"""Folder of what the model is shown of a batch; it is there while one is answered."""
_STEM_LETTERS, _DIGEST_LETTERS = 60, 8
_KEPT = "-_.()[] "


def predict(
    predictor: Predictor,
    names: Sequence[str],
    folder: Path,
    *,
    draw: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answer the pictures `names` into `folder`; returns the document of `summary.json`.

    `draw` asks for a drawn picture of each. Raises `PredictionError`, `FolderError` and
    `coordexp.evaluation.job.INPUT_ERRORS`.
    """
    answers = AnswerFolder(folder, _settings(predictor))
    shown = folder / _SHOWN_NAME
    try:
        answers.check_asked(names)
        if draw:
            _draw_all(
                [line for name, line in answers.lines.items() if not (folder / drawn_name(name)).exists()], folder
            )
        left = _answer_all(predictor, [name for name in names if name not in answers.lines], answers, draw, progress)
        return answers.finish(names, left)
    finally:
        shutil.rmtree(shown, ignore_errors=True)
        answers.close()


def _answer_all(
    predictor: Predictor, names: Sequence[str], answers: AnswerFolder, draw: bool, progress: Progress | None
) -> list[Unanswered]:
    """Answer the pictures, a batch after the other; returns those that are left out."""
    left: list[Unanswered] = []
    if names:
        answers.begin()
    size = predictor.job.decode_batch_size
    for start in range(0, len(names), size):
        batch = names[start : start + size]

        def told(done: int, _: int, before: int = start) -> None:
            if progress is not None:
                progress(before + done, len(names))

        told(0, len(batch))
        shown = answers.folder / _SHOWN_NAME
        # One that was killed has left its last batch there.
        shutil.rmtree(shown, ignore_errors=True)
        with writing(answers.folder):
            shown.mkdir()
        found, unread = predictor.answer(batch, shown, told)
        lines = [render_line(answer) for answer in found]
        answers.append(lines)
        left += unread
        if draw:
            _draw_all(lines, answers.folder)
        told(len(batch), len(batch))
    return left


def _settings(predictor: Predictor) -> dict[str, Any]:
    job, prompt = predictor.job, predictor.encoder.prompt_text
    return {
        "schema_version": 1,
        "checkpoint": str(job.checkpoint),
        "config": str(job.configuration),
        "decode_batch_sizes": [job.decode_batch_size],
        "answering": {
            "weights_sha256": hash_weights(job.checkpoint),
            "tokenizer_sha256": fingerprint_tokenizer(predictor.encoder.tokenizer)["tokens"],
            "system_prompt": prompt.system,
            "user_prompt": prompt.user,
            "max_pixels": job.max_pixels,
            "backend": "hf" if job.server is None else "vllm",
            "dtype": job.dtype,
            "max_new_tokens": job.decoding.max_new_tokens,
            "grammar": None if job.decoding.grammar is None else _digest(job.decoding.grammar),
            "repeat_terminate": digest_in_force(job.repeats),
        },
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def drawn_name(name: str) -> str:
    """Where, below the folder, the drawn picture of one lies: its stem, and a digest of its whole name, so that two of
    one stem have a file each.
    """
    stem = "".join(letter if letter.isalnum() or letter in _KEPT else "_" for letter in Path(name).stem)
    return f"{DRAWN_NAME}/{stem[:_STEM_LETTERS]}-{_digest(name)[:_DIGEST_LETTERS]}.jpg"


def _draw_all(lines: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw each line over its picture. One that cannot be drawn is a warning, and costs nothing else."""
    for line in lines:
        name, target = line["image"], folder / drawn_name(line["image"])
        content = io.BytesIO()
        try:
            picture = read_picture(Path(name), (line["width"], line["height"]), "apply").image
            found = [Detection(each["desc"], tuple(each["box"]), each["score"]) for each in line["objects"]]
            fault = None if line["failure"] is None else line["failure"]["reason"]
            render_answer(picture, found, name, fault).save(content, "JPEG", quality=90)
            write_bytes(target, content.getvalue(), durable=False)
        except PICTURE_FAULTS as error:
            _LOG.warning("%s is not drawn: %s", plain(name), plain(str(error)))


__all__ = ["PredictionError", "drawn_name", "predict"]
