"""What a run left to look at: evaluations and monitor dumps, found and read. EVAL-078, EVAL-080, EVAL-081.

In: a folder (of a run, an evaluation, or above them), or one of their files. Out: sources of answers, each with its
image file, its truth and how it was judged; what is drawn of them is chosen here, and nothing is drawn.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coordexp.artifacts.evaluation_files import PREDICTIONS_NAME
from coordexp.artifacts.stored_evaluation import read_answers
from coordexp.artifacts.stored_rollouts import EVAL, FILE_PATTERNS, FOLDER, SECTION, TRAIN, image_root, read_rollouts
from coordexp.evaluation.detections import on_shown_image
from coordexp.evaluation.matching import Judgement, judge_image
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import ImagePrediction, ImageTruth, MatchCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from coordexp.artifacts.stored_evaluation import StoredAnswers
    from coordexp.artifacts.stored_rollouts import StoredRollout

Kind = Literal["evaluation", "sampled", "train", "eval"]
Mode = Literal["train", "eval"]
Order = Literal["worst", "file"]
ORDERS: tuple[Order, ...] = ("worst", "file")
MEANINGS: dict[Kind, str] = {
    "evaluation": "greedy answers of evaluate --out, matched as the report counts them",
    "sampled": "sampled answers of evaluate --samples, matched in the same way",
    "train": "answers that a training step was made of, matched as training did: by mask IoU, whatever the names",
    "eval": "answers of an evaluation during training, matched as that evaluation counted them",
}
"""What each kind of answer is."""
_MODES: tuple[Mode, ...] = ("train", "eval")


@dataclass(frozen=True, eq=False)
class Shown:
    """One answer as it can be drawn: its truth and prediction are in pixels of the image `image`.

    `place` is its file and line, `sample` which of the sampled answers it is. `fault` says why it is not well-formed.
    """

    kind: Kind
    place: str
    image: Path
    truth: ImageTruth
    prediction: ImagePrediction
    judgement: Judgement
    text: str
    letters: int
    fault: str | None = None
    step: int | None = None
    sample: int | None = None

    @property
    def counts(self) -> MatchCounts:
        """How many of its predictions and objects ended how."""
        return self.judgement.count(len(self.truth.objects), len(self.prediction.detections))

    @property
    def badness(self) -> tuple[float, int]:
        """Sorts the worst first: by F1, then by mistakes. Where nothing was to be said and nothing was, all is well."""
        counts = self.counts
        return 1.0 if counts.f1 is None else counts.f1, -(counts.false_positives + counts.false_negatives)


@dataclass(frozen=True, eq=False)
class Source:
    """Answers of one kind from one place, in the order of its files; `unknown` says why their images can't be found."""

    kind: Kind
    path: Path
    answers: tuple[Shown, ...] = field(repr=False)
    unknown: str | None = None

    def choose(self, order: Order, limit: int) -> tuple[Shown, ...]:
        """At most `limit` of the answers: the worst, worst first, or the first of the file."""
        answers = self.answers if order == "file" else sorted(self.answers, key=lambda one: one.badness)
        return tuple(answers[:limit])


def read_sources(place: Path) -> tuple[Source, ...]:
    """All that `place` holds, evaluations first. Raises `EvaluationError` where that is nothing, and for a damaged line
    with its file and number.
    """
    files = _find(place)
    sources = list(_evaluations(path for path, kind in files.items() if kind == "evaluation"))
    for mode in _MODES:
        of_run: dict[Path, list[Path]] = {}
        for path in (path for path, kind in files.items() if kind == mode):
            of_run.setdefault(path.parent, []).append(path)
        sources += [_dumps(mode, folder, paths) for folder, paths in of_run.items()]
    found = tuple(source for source in sources if source.answers)
    if not found:
        raise EvaluationError(_nothing(place))
    return found


def _nothing(place: Path) -> str:
    return (
        f"{place}: nothing to draw. Looked there and in all folders below for {PREDICTIONS_NAME}, which evaluate --out "
        f"writes, and for {FOLDER}/{FILE_PATTERNS[TRAIN]} and {FOLDER}/{FILE_PATTERNS[EVAL]}, which a stage-2 run "
        f"writes with {SECTION}.enabled: true (every_steps and max_samples beside it say how much). Evaluate a "
        "checkpoint with --out, train with that key, or name another folder"
    )


def _find(place: Path) -> dict[Path, Kind]:
    """The files to read and what they are; a file that is named itself is an evaluation unless its name is a dump's."""
    if place.is_file():
        return {place: _kind_of(place.name, dumps=True) or "evaluation"}
    if not place.is_dir():
        raise EvaluationError(f"{place}: no such folder; name a run's output folder, or one that evaluate --out wrote")
    found: dict[Path, Kind] = {}
    for folder, below, names in os.walk(place, onerror=_refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        dumps = os.path.basename(os.path.abspath(folder)) == FOLDER
        for name in sorted(names):
            kind = _kind_of(name, dumps=dumps)
            if kind is not None:
                found[Path(folder, name)] = kind
    return found


def _refuse(error: OSError) -> None:
    raise EvaluationError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _kind_of(name: str, *, dumps: bool) -> Kind | None:
    """What a file of this name is; `dumps` says that it lies where dumps do."""
    if name == PREDICTIONS_NAME:
        return "evaluation"
    return next((mode for mode in _MODES if dumps and fnmatchcase(name, FILE_PATTERNS[mode])), None)


def _evaluations(paths: Iterable[Path]) -> Iterator[Source]:
    for path in paths:
        answers = read_answers(path)
        yield Source("evaluation", path, tuple(_greedy(answers)))
        yield Source("sampled", path, tuple(_sampled(answers)))


def _greedy(answers: StoredAnswers) -> Iterator[Shown]:
    for number, line in enumerate(answers.lines):
        fault = None if line["failure"] is None else f"{line['failure']['reason']}: {line['failure']['message']}"
        yield _answer(answers, number, answers.predictions[number], (line["text"], fault, None))


def _sampled(answers: StoredAnswers) -> Iterator[Shown]:
    for number, line in enumerate(answers.lines):
        for place, sample in enumerate(answers.samples):
            parsed = sample[number].parse
            fault = None if parsed.strict else "truncated" if parsed.truncated else "not well-formed"
            # Which fault it has first is not stored, so the picture names none.
            unnamed = replace(sample[number], parse=replace(parsed, failure=None))
            yield _answer(answers, number, unnamed, (line["samples"][place]["text"], fault, place + 1))


def _answer(
    answers: StoredAnswers, number: int, prediction: ImagePrediction, told: tuple[str | None, str | None, int | None]
) -> Shown:
    """The answer to image `number`, judged in the pixels of its report; `told` is text, fault and sample.

    Boxes that were made elsewhere have no text.
    """
    text, fault, sample = told
    judgement = judge_image(answers.truth[number], prediction.detections)
    truth, prediction = on_shown_image(answers.truth[number], prediction)
    return Shown(
        kind="evaluation" if sample is None else "sampled",
        place=f"{answers.path}:{number + 1}",
        image=answers.images[number],
        truth=truth,
        prediction=prediction,
        judgement=judgement,
        text=text or "",
        letters=len(text or ""),
        fault=fault,
        sample=sample,
    )


def _dumps(mode: Mode, folder: Path, paths: Sequence[Path]) -> Source:
    """The dumps of one mode in a run's folder of them."""
    root, unknown = Path(), None
    try:
        # The folder may be the current one, or a link: the manifest lies beside it by name.
        root = image_root(Path(os.path.abspath(folder)).parent, mode)
    except EvaluationError as error:
        unknown = str(error)
    rollouts = ((path, number, found) for path in paths for number, found in enumerate(read_rollouts(path), 1))
    answers = tuple(_dumped(mode, f"{path}:{number}", root, found) for path, number, found in rollouts)
    return Source(mode, paths[0] if len(paths) == 1 else folder, answers, unknown)


def _dumped(mode: Mode, place: str, root: Path, found: StoredRollout) -> Shown:
    line = found.line
    return Shown(
        kind=mode,
        place=place,
        image=root / line["image"],
        truth=found.truth,
        prediction=found.prediction,
        judgement=found.judgement,
        text=line["text"],
        letters=line["text_chars"],
        fault=line["parse"]["failure"],
        step=line["step"],
    )
