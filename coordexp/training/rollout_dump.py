"""Some answers of a run as files for a person to read, of training steps and of evaluations. TRAIN-034, ROLL-070.

The documents are `coordexp:rollout-dump`, one line an answer, in `<run>/rollouts/step_<step>.jsonl` and
`<run>/rollouts/eval_<step>.jsonl`. How much is written, and what a bad disk does, is `artifacts.dump_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.dump_files import Cadence, DumpBounds, DumpFiles
from coordexp.artifacts.stored_rollouts import EVAL, FALSE, FILE_NAMES, FOLDER, IGNORED, MATCHED, SECTION, TRAIN
from coordexp.coordjson import DroppedObject
from coordexp.data.regions import read_scope
from coordexp.evaluation.matching import judge_image
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from coordexp.coordjson import ParsedRollout
    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record
    from coordexp.encode.pieces import PieceTable
    from coordexp.evaluation.runner import Scored
    from coordexp.evaluation.types import ImagePrediction, ImageTruth
    from coordexp.matching.types import Match
    from coordexp.metrics.accumulator import State
    from coordexp.rollout.types import RolloutOutput
    from coordexp.training.rollout_metrics import TrainedRollout


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with its record, whom its valid objects are matched with, and which of them count neither way."""

    record: Record
    output: RolloutOutput
    parsed: ParsedRollout
    matches: Sequence[Match]
    ignored: frozenset[int] = frozenset()


class RolloutDump:
    """Writes the first `bounds.max_samples` answers of a training step that is due, and of every evaluation."""

    def __init__(self, run: Path, pieces: PieceTable, bounds: DumpBounds) -> None:
        self.bounds = bounds
        self.files = DumpFiles(run / FOLDER, SECTION, bounds)
        self._pieces, self._cadence = pieces, Cadence(bounds)

    def train(self, step: int, rollouts: Sequence[TrainedRollout]) -> State:
        """Write some of the rollouts of `step`, where it is due; what that came to, by metric key."""
        if rollouts and self.files.has_room(TRAIN) and self._cadence.due(step):
            chosen = rollouts[: self.bounds.max_samples]
            self._write(TRAIN, step, (self._trained(step, rollout) for rollout in chosen))
        return self.files.take_observed()

    def evaluation(
        self, step: int, scored: Scored, records: Sequence[Record], outputs: Sequence[RolloutOutput]
    ) -> State:
        """Write some of the answers of an evaluation after `step` steps; all sequences follow the records."""
        if outputs and self.files.has_room(EVAL):
            rows = list(zip(records, outputs, scored.truth, scored.predictions, strict=True))
            answers = (
                _judged(record, output, truth, found)
                for record, output, truth, found in rows[: self.bounds.max_samples]
            )
            self._write(EVAL, step, (self._line(EVAL, step, answer) | {"target": None} for answer in answers))
        return self.files.take_observed()

    def _write(self, mode: str, step: int, lines: Iterator[dict[str, Any]]) -> None:
        self.files.write(mode, FILE_NAMES[mode].format(step), lambda: (check("rollout-dump", line) for line in lines))

    def _trained(self, step: int, rollout: TrainedRollout) -> dict[str, Any]:
        sample = rollout.sample
        answer = sample.input_ids[sample.prompt_length :].tolist()
        spelt = b"".join(map(self._pieces.any_piece, answer)).decode("utf-8", "replace")
        reached = {fate.truth for fate in rollout.target.fates}
        line = self._line(
            TRAIN, step, Answer(rollout.item.record, rollout.output, rollout.parsed, rollout.result.matched)
        )
        target = {
            "tokens": len(answer),
            "text": self._cut(spelt),
            "text_chars": len(spelt),
            "appended": [index for index in range(len(rollout.target.truths)) if index not in reached],
            "cut": rollout.cut,
            "closure_lost": rollout.closure_lost,
        }
        return line | {"target": target}

    def _line(self, mode: str, step: int, answer: Answer) -> dict[str, Any]:
        record, output, parsed = answer.record, answer.output, answer.parsed
        matches = {match.prediction: match for match in answer.matches}
        met = {match.truth for match in answer.matches}
        return {
            "mode": mode,
            "step": step,
            "sample_id": output.sample_id,
            "image": record.images[0],
            "width": record.width,
            "height": record.height,
            "policy_version": output.policy_version,
            "finish_reason": output.finish_reason,
            "repeat_terminated": output.repeat_terminated,
            "response_tokens": len(output.response_token_ids),
            "text": self._cut(output.text),
            "text_chars": len(output.text),
            "parse": {
                "strict": parsed.strict,
                "failure": parsed.failure,
                "invalid_rollout": parsed.invalid_rollout,
                "truncated": parsed.truncated,
                "malformed_tail": parsed.malformed_tail,
            },
            "objects": list(self._objects(answer, matches)),
            "ground_truth": [self._object(item) for item in record.objects],
            "missed": [index for index in range(len(record.objects)) if index not in met],
            "ignore": [region.as_json() for region in read_scope(record).ignore],
        }

    def _objects(self, answer: Answer, matches: Mapping[int, Match]) -> Iterator[dict[str, Any]]:
        """Every complete object in the order written; matches count the valid ones alone."""
        number = 0
        for element in answer.parsed.elements:
            if isinstance(element, DroppedObject):
                yield {"fate": element.reason, "excerpt": element.excerpt}
                continue
            line = {"fate": IGNORED if number in answer.ignored else FALSE, **self._object(element.item)}
            if number in matches:
                line |= {"fate": MATCHED, "truth": matches[number].truth, "iou": min(1.0, matches[number].iou)}
            number += 1
            yield line

    def _object(self, item: CoordObject) -> dict[str, Any]:
        return {"desc": self._cut(item.desc), "kind": item.kind, "bins": list(item.bins)}

    def _cut(self, text: str) -> str:
        return text[: self.bounds.max_chars]


def _judged(record: Record, output: RolloutOutput, truth: ImageTruth, found: ImagePrediction) -> Answer:
    """An answer of an evaluation, as the evaluation judges it."""
    judged = judge_image(truth, found.detections)
    return Answer(record, output, found.parse, judged.matches, judged.ignored)
