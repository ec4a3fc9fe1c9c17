"""Some rollouts of a run as files for a person to read, bounded on every side. Contract id: TRAIN-034.

The documents are `coordexp:rollout-dump`, one line a rollout, in `<run>/rollouts/step_<step>.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import write_json_lines
from coordexp.coordjson import DroppedObject
from coordexp.spec import check

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.encode.pieces import PieceTable
    from coordexp.training.rollout_metrics import TrainedRollout

FOLDER = "rollouts"


@dataclass(slots=True)
class RolloutDump:
    """Writes the first `max_samples` rollouts of every `every_steps`-th step, of at most `max_events` steps.

    Texts are cut to `max_text_chars` characters.
    """

    folder: Path
    pieces: PieceTable
    every_steps: int
    max_events: int
    max_samples: int
    max_text_chars: int
    written: int = field(default=0, init=False)

    def __call__(self, step: int, rollouts: Sequence[TrainedRollout]) -> None:
        """Write some of the rollouts of `step`, where it is one of those that are written."""
        if step % self.every_steps or self.written >= self.max_events or not rollouts:
            return
        lines = [check("rollout-dump", self._line(step, rollout)) for rollout in rollouts[: self.max_samples]]
        write_json_lines(self.folder / FOLDER / f"step_{step:06}.jsonl", lines)
        self.written += 1

    def _line(self, step: int, rollout: TrainedRollout) -> dict[str, Any]:
        output, parsed, sample = rollout.output, rollout.parsed, rollout.sample
        answer = sample.input_ids[sample.prompt_length :].tolist()
        return {
            "step": step,
            "sample_id": output.sample_id,
            "policy_version": output.policy_version,
            "finish_reason": output.finish_reason,
            "response_tokens": len(output.response_token_ids),
            "text": output.text[: self.max_text_chars],
            "parse": {
                "strict": parsed.strict,
                "invalid_rollout": parsed.invalid_rollout,
                "truncated": parsed.truncated,
                "malformed_tail": parsed.malformed_tail,
                "cut": rollout.cut,
            },
            "objects": list(_objects(rollout)),
            "missed": [{"desc": item.desc, "bins": list(item.bins)} for item in rollout.target.missed],
            "target_tokens": len(answer),
            "target": self._spell(answer)[: self.max_text_chars],
        }

    def _spell(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.pieces.any_piece, ids)).decode("utf-8", "replace")


def _objects(rollout: TrainedRollout) -> Iterator[dict[str, Any]]:
    truths = rollout.item.record.objects
    matches = {match.prediction: match for match in rollout.result.matched}
    number = 0
    for element in rollout.parsed.elements:
        if isinstance(element, DroppedObject):
            yield {"fate": element.reason, "excerpt": element.excerpt}
            continue
        line: dict[str, Any] = {"fate": "fp", "desc": element.item.desc, "bins": list(element.item.bins)}
        if (match := matches.get(number)) is not None:
            line |= {"fate": "matched", "truth": list(truths[match.truth].bins), "mask_iou": match.iou}
        number += 1
        yield line
