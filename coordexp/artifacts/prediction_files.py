"""The folder of answers about pictures without annotations: lines that outlive a kill, COCO files. EVAL-073, EVAL-074.

`settings.json` comes first and says who answers; `answers.jsonl` grows batch by batch; what is made of all lines
together, and `summary.json`, come when every picture was tried. Documents pass `coordexp:prediction-*`.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import hash_file, read_json_lines, render_json_line, write_json, write_json_lines
from coordexp.artifacts.folders import check_writable
from coordexp.coordjson import describe_failure
from coordexp.evaluation.coco import xywh
from coordexp.spec import ContractFileError, ContractViolation, check, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from io import FileIO

    from coordexp.evaluation.prediction import Answer, Unanswered

ANSWERS_NAME, SETTINGS_NAME, SUMMARY_NAME = "answers.jsonl", "settings.json", "summary.json"
IMAGES_NAME, RESULTS_NAME, DRAWN_NAME = "coco_images.json", "coco_results.json", "pictures"
_HIDDEN = "."
_SHOWN = 3
_ELSEWHERE = "Name another folder with --out"


class PredictionError(ValueError):
    """A folder of answers that this job cannot go on with; the message says why and what to do."""


def render_line(answer: Answer) -> dict[str, Any]:
    """An answer as a line of `answers.jsonl`."""
    picture, parsed = answer.picture, answer.prediction.parse
    failure = None
    if parsed.failure is not None:
        failure = {"reason": parsed.failure, "message": describe_failure(parsed)}
    line = {
        "image": picture.name,
        "sha256": picture.sha256,
        "width": picture.size[0],
        "height": picture.size[1],
        "shown": list(picture.shown),
        "text": answer.output.text,
        "finish_reason": answer.output.finish_reason,
        "response_tokens": len(answer.output.response_token_ids),
        "failure": failure,
        "truncated": parsed.truncated,
        "dropped": [{"reason": drop.reason, "offending": drop.excerpt} for drop in parsed.dropped],
        "parse": {"invalid_rollout": parsed.invalid_rollout, "malformed_tail": parsed.malformed_tail},
        "objects": [
            {"desc": found.desc, "box": list(found.box), "score": found.score} for found in answer.prediction.detections
        ],
    }
    return dict(check("prediction-line", line))


class AnswerFolder:
    """A folder of answers and the lines that stand in it, by picture; open in one process at a time.

    `settings` is a document of `coordexp:prediction-settings`. Raises `FolderError`, and `PredictionError` for a folder
    that holds something else, or answers of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = check_writable(folder)
        # Looked at before anything is written: what is refused stays as it was.
        known = _known_settings(folder, settings["answering"])
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._stream = _locked(folder / ANSWERS_NAME)
        self.lines: dict[str, dict[str, Any]] = {line["image"]: line for line in self._read_lines()}
        sizes = dict.fromkeys([*(known or settings)["decode_batch_sizes"], *settings["decode_batch_sizes"]])
        document = check("prediction-settings", {**(known or settings), "decode_batch_sizes": list(sizes)})
        with writing(folder):
            write_json(folder / SETTINGS_NAME, document)

    def _read_lines(self) -> list[dict[str, Any]]:
        path = self.folder / ANSWERS_NAME
        content = path.read_bytes()
        # A line that a kill has cut off ends without its line feed, and is none.
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._stream.truncate(whole)
        try:
            return [check("prediction-line", line) for line in read_json_lines(path)]
        except (ContractViolation, ValueError) as error:
            raise PredictionError(f"{path}: a line is none of an answer ({error}); delete it. {_ELSEWHERE}") from error

    def check_asked(self, names: Sequence[str]) -> None:
        """Raise `PredictionError` where a line is of a picture that is not among `names`, or has changed since."""
        asked = set(names)
        others = [name for name in self.lines if name not in asked]
        if others:
            raise PredictionError(
                f"{self.folder} holds answers to {len(others)} pictures that are not among the {len(asked)} of this "
                f"call ({_list(others)}). Name those too, from the same working folder. {_ELSEWHERE}"
            )
        for name, line in self.lines.items():
            if hash_picture(name) != line["sha256"]:
                raise PredictionError(
                    f"{name} is another picture than the one that {self.folder / ANSWERS_NAME} has an answer to. "
                    f"Delete its line there to have it answered anew. {_ELSEWHERE}"
                )

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines behind those that stand there; a kill after this takes none of them."""
        added = list(lines)
        left = memoryview(b"".join(map(render_json_line, added)))
        with writing(self.folder):
            # Unbuffered: what a full disk refuses must not be tried again when the file is closed.
            while left:
                left = left[self._stream.write(left) :]
            os.fsync(self._stream.fileno())
        self.lines.update({line["image"]: dict(line) for line in added})

    def begin(self) -> None:
        """Remove what was made of all lines, as there will be more."""
        for name in (SUMMARY_NAME, IMAGES_NAME, RESULTS_NAME):
            (self.folder / name).unlink(missing_ok=True)

    def finish(self, names: Sequence[str], left: Sequence[Unanswered]) -> dict[str, Any]:
        """Bring the lines into the order of `names`, write the COCO files, then the summary, which is returned."""
        ordered = [self.lines[name] for name in names if name in self.lines]
        images, results = render_coco(ordered, {name: number for number, name in enumerate(names, 1)})
        summary: dict[str, Any] = check("prediction-summary", _summary(names, ordered, left))
        with writing(self.folder):
            if list(self.lines.values()) != ordered:
                write_json_lines(self.folder / ANSWERS_NAME, ordered)
            write_json(self.folder / IMAGES_NAME, check("prediction-images", images))
            write_json(self.folder / RESULTS_NAME, check("evaluation-coco-results", results))
            write_json(self.folder / SUMMARY_NAME, summary)
        return summary

    def close(self) -> None:
        """Let another process have the folder."""
        self._stream.close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Errors of the disk as a `PredictionError`: what stands in the folder is kept."""
    try:
        yield
    except OSError as error:
        raise PredictionError(
            f"{folder}: cannot be written into ({error.strerror}). The answers that stand there are kept: make room, "
            "and the same command goes on"
        ) from error


def hash_picture(name: str) -> str:
    """Digest of a picture's file. Raises `PredictionError` where it is not read."""
    try:
        return hash_file(Path(name))
    except OSError as error:
        raise PredictionError(
            f"{name}: cannot be read any more ({error.strerror}), and there is an answer to it. Put it back. "
            f"{_ELSEWHERE}"
        ) from error


def render_coco(
    lines: Sequence[Mapping[str, Any]], ids: Mapping[str, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images and categories, and the objects in COCO's results format, the best of an image first."""
    descs = sorted({found["desc"] for line in lines for found in line["objects"]})
    category = {desc: number for number, desc in enumerate(descs, 1)}
    images = {
        "info": {"description": "pictures answered by coordexp.entrypoints.predict"},
        "images": [
            {"id": ids[line["image"]], "file_name": line["image"], "width": line["width"], "height": line["height"]}
            for line in lines
        ],
        "annotations": [],
        "categories": [{"id": number, "name": desc} for desc, number in category.items()],
    }
    results = [
        {
            "image_id": ids[line["image"]],
            "category_id": category[found["desc"]],
            "bbox": list(xywh(tuple(found["box"]))),
            "score": found["score"],
        }
        for line in lines
        for found in sorted(line["objects"], key=lambda each: (-each["score"], each["box"], each["desc"]))
    ]
    return images, results


def _summary(names: Sequence[str], lines: Sequence[Mapping[str, Any]], left: Sequence[Unanswered]) -> dict[str, Any]:
    found = Counter(each["desc"] for line in lines for each in line["objects"])
    faults = Counter(line["failure"]["reason"] for line in lines if line["failure"] is not None)
    return {
        "schema_version": 1,
        "pictures": len(names),
        "answered": len(lines),
        "objects": dict(sorted(found.items())),
        "parse_failures": dict(sorted(faults.items())),
        "truncated": sum(line["truncated"] for line in lines),
        "token_limit": sum(line["finish_reason"] == "length" for line in lines),
        "unanswered": [{"image": each.name, "reason": each.reason, "message": each.message} for each in left],
    }


def _known_settings(folder: Path, answering: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that stand in a folder, if lines with these belong to theirs; None for a new one."""
    path = folder / SETTINGS_NAME
    if not path.is_file():
        spare = sorted(each.name for each in folder.glob("*") if _stands_alone(each))
        if spare:
            raise PredictionError(
                f"{folder}: holds other files ({_list(spare)}) and no {SETTINGS_NAME} of a prediction. {_ELSEWHERE}"
            )
        return None
    try:
        known: dict[str, Any] = check("prediction-settings", read_json(path))
    except (ContractFileError, ContractViolation) as error:
        raise PredictionError(f"{path}: is none of a prediction ({error}). {_ELSEWHERE}") from error
    differing = list(_differences(known["answering"], answering))
    if differing:
        raise PredictionError(
            f"{folder} holds answers that were made otherwise:\n  " + "\n  ".join(differing) + "\nAnswers of two kinds "
            f"are not mixed: call with what those were made with ({known['checkpoint']}, {known['config']}). "
            f"{_ELSEWHERE}"
        )
    return known


def _stands_alone(path: Path) -> bool:
    """Whether a file of a folder without settings is of something else; a kill may come before they are written."""
    begun = path.name == ANSWERS_NAME and path.stat().st_size == 0
    return not begun and not path.name.startswith(_HIDDEN)


def _differences(known: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key, value in now.items():
        if known[key] != value:
            yield f"{key}: {known[key]!r} there, {value!r} now"


def _locked(path: Path) -> FileIO:
    stream = path.open("ab", buffering=0)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise PredictionError(f"{path}: another process is writing it; let that end. {_ELSEWHERE}") from error
    return stream


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
