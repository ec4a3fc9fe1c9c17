"""Records of a step in, the plan of a step on their rollouts out: generate, parse, match, target, pack. TRAIN-030.

Every rollout is trained on in the step that wrote it, and by the weights that wrote it: there is no queue, and no
segment crosses a step (AUDIT-8.7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from coordexp.data.paths import resolve_record_images
from coordexp.encode.assemble import without_targets
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.encode.rollout_target import ClosureError
from coordexp.matching.objects import match_objects
from coordexp.matching.targets import fit_target, plan_target
from coordexp.metrics.accumulator import MetricAccumulator, State
from coordexp.rollout.requests import check_prompts
from coordexp.rollout.seeding import rollout_seed_base
from coordexp.rollout.types import RolloutRequest
from coordexp.training.forwards import agree, pack_step
from coordexp.training.rollout_metrics import TrainedRollout, observe_rollouts
from coordexp.training.types import StepKind, StepPlan

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from coordexp.coordjson import ParsedRollout
    from coordexp.encode.encoder import Encoder, PreparedRecord
    from coordexp.matching.types import MatchResult, MatchSettings
    from coordexp.rollout.types import Decoding, RolloutBackend, RolloutOutput
    from coordexp.training.forwards import ForwardBuilder, RowLimits
    from coordexp.training.types import PlannedForward, StepRecords

Dump = Callable[[int, Sequence[TrainedRollout]], State]
"""Takes the rollouts of a step, from 0, and writes some of them out; what that came to, by metric key."""
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class PhaseSettings:
    """How rollouts are drawn and matched, and how their targets are laid into forwards (`rows`).

    `decoding` has no seed yet: each step has its own.
    """

    decoding: Decoding
    matching: MatchSettings
    training_seed: int
    image_root: Path
    rows: RowLimits


class RolloutPhase:
    """Makes the plan of a step. Ranks work on their own records; what they share is counted once, at the end."""

    def __init__(
        self,
        backend: RolloutBackend,
        builder: ForwardBuilder,
        settings: PhaseSettings,
        device: torch.device,
        dump: Dump | None = None,
    ) -> None:
        self.backend, self.settings, self.dump = backend, settings, dump
        self._builder, self._device = builder, device
        encoder = builder.encoder
        self._parser = RolloutParser(encoder.tokenizer, encoder.coords)
        self._completer = TargetCompleter(encoder)

    def plan(self, records: StepRecords) -> StepPlan:
        """Roll out, complete and pack this rank's records; every rank calls it once a step, with or without records.

        Raises what the backend raises, and `RolloutError` where it has answered another prompt.
        """
        observed = MetricAccumulator()
        self.backend.sync(records.step)
        outputs = _timed(observed, "generate", self._generate, records)
        observed.merge(self.backend.take_observed())
        parses = _timed(observed, "parse", _each(self._parse), outputs)
        matches = _timed(observed, "match", _each(self._match), zip(records.prepared, parses, strict=True))
        drawn = list(zip(records.prepared, outputs, parses, matches, strict=True))
        rollouts = _timed(observed, "encode", _each(self._completer), drawn)
        forwards = _timed(observed, "pack", self._pack, rollouts)
        observe_rollouts(observed, rollouts)
        observed.add("rollout/seed_base", rollout_seed_base(self.settings.training_seed, records.step))
        observed.add("rollout/repeat_terminate_active", float(self.backend.settings.repeat_terminate))
        if self.dump is not None:
            observed.merge(self.dump(records.step, rollouts))
        planned = agree(StepKind.B, forwards, self._builder.filler, self._device)
        written_by = frozenset(output.policy_version for output in outputs)
        return dataclasses.replace(planned, written_by=written_by, observed=observed.state())

    def _generate(self, records: StepRecords) -> list[RolloutOutput]:
        """One answer a record, by the seed that its place in the step gives it."""
        requests = [
            RolloutRequest(
                item.prompt.sample_id,
                item.prompt.ids,
                resolve_record_images(item.record, self.settings.image_root),
                records.first + number,
                ((item.record.width, item.record.height),),
            )
            for number, item in enumerate(records.prepared)
        ]
        base = rollout_seed_base(self.settings.training_seed, records.step)
        outputs = self.backend.generate(requests, dataclasses.replace(self.settings.decoding, seed_base=base))
        return check_prompts(requests, outputs)

    def _parse(self, output: RolloutOutput) -> ParsedRollout:
        return self._parser.parse(output.response_token_ids)

    def _match(self, pair: tuple[PreparedRecord, ParsedRollout]) -> MatchResult:
        item, parsed = pair
        return match_objects([found.item for found in parsed.objects], item.record.objects, self.settings.matching)

    def _pack(self, rollouts: Sequence[TrainedRollout]) -> list[PlannedForward]:
        samples, images = [rollout.sample for rollout in rollouts], [rollout.item.image for rollout in rollouts]
        return pack_step(self._builder, samples, images, self.settings.rows)


@dataclass(frozen=True, slots=True)
class TargetCompleter:
    """Completes rollouts to samples of at most the encoder's `max_length` tokens."""

    encoder: Encoder

    def __call__(self, drawn: tuple[PreparedRecord, RolloutOutput, ParsedRollout, MatchResult]) -> TrainedRollout:
        """The rollout with what it missed; without targets where the answer's closure is lost."""
        item, output, parsed, result = drawn
        plan = plan_target(output.response_token_ids, parsed, item.record.objects, result)
        closure_lost = False
        try:
            lengths = partial(self.encoder.target_lengths, item.prompt)
            target = fit_target(plan, self.encoder.settings.max_length, lengths)
            sample = self.encoder.target(item.prompt, target)
        except ClosureError:
            target, closure_lost = plan, True
            sample = without_targets(self.encoder.sample(item.record, item.prompt))
        return TrainedRollout(
            item=item,
            output=output,
            parsed=parsed,
            result=result,
            target=target,
            sample=sample,
            truth_length=self.encoder.answer_length(item.record) + 1,
            closure_lost=closure_lost,
        )


def _each(function: Callable[[In], Out]) -> Callable[[Iterable[In]], list[Out]]:
    return lambda items: [function(item) for item in items]


def _timed(observed: MetricAccumulator, name: str, work: Callable[[In], Out], given: In) -> Out:
    """What `work` returns; its seconds stand under `time/rollout_<name>_s`."""
    started = perf_counter()
    done = work(given)
    observed.add(f"time/rollout_{name}_s", perf_counter() - started)
    return done
