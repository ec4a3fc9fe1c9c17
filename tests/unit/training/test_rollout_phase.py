"""The plan of a step on rollouts: oracles against stage 1, neutral spans, order, seeds, versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from coordexp.config import load_config
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.encode.rollout_target import ClosureError
from coordexp.encode.types import IGNORE_INDEX, ObjectSlots, TokenSubset, TokenType
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_stage1_objective
from coordexp.packing.positions import build_rope_index
from coordexp.rollout.seeding import evaluation_seed_base, rollout_seed_base
from coordexp.rollout.types import RolloutError
from coordexp.training.errors import TrainingError
from coordexp.training.forwards import ForwardBuilder, RowLimits, agree
from coordexp.training.rollout_metrics import CLOSURES_LOST
from coordexp.training.types import StepKind, StepPlan, StepRecords
from tests.plugins.stage2 import WEIGHTS, Learnt, Scripted, answers_by_sample, disagreements, learn, pipeline

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder, PreparedRecord
    from coordexp.encode.types import EncodedSample
    from tests.plugins.stage1 import Stage1Kit
    from tests.plugins.stage2 import Stage2Kit

ROW = 420
"""Tokens of a row; of the three samples two share one."""


@dataclass
class Bench:
    """A built trainer, the first records of its training set, and its phase with a scripted backend."""

    trainer: Any
    items: list[PreparedRecord]

    @property
    def encoder(self) -> Encoder:
        return self.trainer.parts.run.encoder

    @property
    def phase(self) -> Any:
        return self.trainer.parts.plans.make.__self__

    @property
    def stop(self) -> int:
        return self.encoder.turn.end

    def tokens(self, text: str) -> list[int]:
        return self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]

    def script(self, answers: Sequence[Sequence[int]], **settings: int) -> Scripted:
        """Answer the items in turn."""
        told = {item.prompt.sample_id: ids for item, ids in zip(self.items, answers, strict=True)}
        backend = Scripted(answers_by_sample(told), self.stop, **settings)
        self.phase.backend = backend
        return backend

    def plan(self, answers: Sequence[Sequence[int]], step: int = 0) -> StepPlan:
        self.script(answers)
        return self.phase.plan(StepRecords(step, 0, tuple(self.items)))

    def learn(self, plan: StepPlan, **changes: Any) -> Learnt:
        """Loss and gradients of a plan, by the run's own runner with `changes`."""
        return learn(self.trainer, plan, **changes)

    def builder(self, objective: Any, provenance: Provenance) -> ForwardBuilder:
        return ForwardBuilder(self.encoder, build_rope_index(self.trainer.model.config), objective, provenance)

    def plan_of(self, builder: ForwardBuilder, samples: Sequence[EncodedSample]) -> StepPlan:
        """All samples in one forward, as a step."""
        images = {item.prompt.sample_id: item.image for item in self.items}
        forward = builder.build(samples, [images[sample.sample_id] for sample in samples], 1)
        return agree(StepKind.GT, [forward], builder.filler, torch.device("cpu"))


def agree_on_all(found: Learnt, wanted: Learnt) -> None:
    """Loss and every gradient are the same."""
    assert disagreements(found, wanted) == []


@pytest.fixture(scope="module")
def bench(stage2_kit: Stage2Kit) -> Bench:
    from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned

    trainer = build_stage2_rollout_aligned(load_config(stage2_kit.write("oracles", row=ROW)))
    dataset = trainer.parts.dataset
    return Bench(trainer, [dataset[index] for index in range(3)])


@pytest.fixture(scope="module")
def as_stage1(stage1_kit: Stage1Kit, bench: Bench) -> Any:
    """Loss and gradients of stage 1 on samples of the bench's records: its own objective with the same weights."""
    geo, reg = ("smoothl1_weight", "ciou_weight"), ("soft_ce_weight", "w1_weight", "text_gate_weight", "target_sigma")
    custom = {
        "desc_ce_weight": WEIGHTS["rollout_fn_desc_weight"],
        "coord_soft_ce_w1": {
            "enabled": True,
            "gate_weight": WEIGHTS["coord_gate_weight"],
            **{key: WEIGHTS[key] for key in reg},
        },
        "bbox_geo": {"enabled": True, **{key: WEIGHTS[key] for key in geo}},
    }
    objective = build_stage1_objective(load_config(stage1_kit.write("oracle_stage1", custom=custom)).custom)
    builder = bench.builder(objective, Provenance.STAGE1)

    def of_stage1(samples: Sequence[EncodedSample]) -> Learnt:
        return bench.learn(bench.plan_of(builder, samples), objective=objective)

    return of_stage1


def truths(bench: Bench) -> list[EncodedSample]:
    """What stage 1 trains on."""
    return [bench.encoder.sample(item.record, item.prompt) for item in bench.items]


def samples_of(plan: StepPlan) -> list[EncodedSample]:
    return [sample for forward in plan.forwards for sample in forward.samples]


@pytest.mark.invariant("TRAIN-030")
@pytest.mark.parametrize("written", ["the cat is here", "", '{"objects":', '{"boxes": [{"desc": "a"}]}'])
def test_an_invalid_rollout_is_trained_on_as_stage_1_trains_on_the_record(
    bench: Bench, as_stage1: Any, written: str
) -> None:
    plan = bench.plan([[*bench.tokens(written), bench.stop]] * 3)
    wanted = {sample.sample_id: sample.input_ids.tolist() for sample in truths(bench)}
    assert {sample.sample_id: sample.input_ids.tolist() for sample in samples_of(plan)} == wanted
    assert plan.observed["rollout/invalid_rollouts_total"][0] == 3
    agree_on_all(bench.learn(plan), as_stage1(truths(bench)))


@pytest.mark.invariant("TRAIN-030")
def test_an_empty_list_is_trained_on_as_stage_1_without_the_opening(bench: Bench, as_stage1: Any) -> None:
    plan = bench.plan([[*bench.tokens('{"objects": []}'), bench.stop]] * 3)
    samples, without = truths(bench), []
    for sample in samples:
        opening = bench.tokens('{"objects": [')[:-1]
        labels = sample.labels.clone()
        first = sample.prompt_length
        assert sample.input_ids[first : first + len(opening)].tolist() == opening
        labels[first : first + len(opening)] = IGNORE_INDEX
        without.append(dataclasses.replace(sample, labels=labels))
    assert plan.observed["rollout/invalid_rollouts_total"][0] == 0
    found = bench.learn(plan)
    agree_on_all(found, as_stage1(without))
    assert found[0] != pytest.approx(as_stage1(samples)[0], rel=1e-4), "the opening is worth something"


@pytest.mark.invariant("TRAIN-030")
def test_a_perfect_rollout_has_neither_misses_nor_false_positives(bench: Bench) -> None:
    answers = [[*bench.encoder.ground_truth(item.record).ids, bench.stop] for item in bench.items]
    plan = bench.plan(answers)
    objects = sum(len(item.record.objects) for item in bench.items)
    wanted = {"gt_objects": objects, "matched": objects, "fp": 0, "fn": 0, "fn_appended": 0, "invalid_rollouts": 0}
    assert {key: plan.observed[f"rollout/{key}_total"][0] for key in wanted} == wanted
    assert plan.observed["rollout/gt_tokens_mean"] == plan.observed["rollout/gen_new_tokens_mean"]
    assert plan.observed["rollout/gt_tokens_mean"] == (sum(map(len, answers)), len(answers))
    for sample, truth in zip(sorted(samples_of(plan), key=_name), sorted(truths(bench), key=_name), strict=True):
        assert sample.input_ids.tolist() == truth.input_ids.tolist()
        assert {slots.subset for slots in sample.objects} == {TokenSubset.MATCHED}
        assert [slots.bins for slots in sample.objects] == [slots.bins for slots in truth.objects]


def _name(sample: EncodedSample) -> str:
    return sample.sample_id


STRANGE = CoordObject("red square", "bbox_2d", (3, 5, 8, 13))


def mixed_answers(bench: Bench) -> list[list[int]]:
    """Each answer has a matched object, a false positive, a dropped one, and misses what is left."""
    answers = []
    for item in bench.items:
        first = dataclasses.replace(item.record.objects[0], desc="another name")
        text = render_answer([STRANGE, first], "desc_first").replace("]}]}", ']}, {"desc": "no geometry"}]}')
        answers.append([*bench.tokens(text), bench.stop])
    return answers


@pytest.mark.invariant("TRAIN-030")
def test_what_is_said_inside_a_false_positive_is_neutral(bench: Bench) -> None:
    plan = bench.plan(mixed_answers(bench))
    samples = samples_of(plan)
    assert plan.observed["rollout/fp_total"][0] == plan.observed["rollout/parse_dropped_invalid"][0] == 3
    assert plan.observed["rollout/matched_total"][0] == 3 and plan.observed["rollout/fn_appended_total"][0] > 0
    builder = bench.builder(bench.trainer.parts.run.objective, Provenance.B)
    generator, changed = torch.Generator().manual_seed(1), []
    for sample in samples:
        neutral = (sample.subsets == TokenSubset.FP) | (sample.subsets == TokenSubset.DROPPED)
        coords = torch.nonzero(neutral & (sample.token_types == TokenType.COORD)).flatten().tolist()
        assert int(neutral.sum()) > 12 and len(coords) == 4
        noise = torch.randint(0, 900, sample.labels.shape, generator=generator)
        slots = ObjectSlots("bbox_2d", tuple(coords), (900, 901, 902, 903), TokenSubset.FP)
        labels = torch.where(neutral, noise, sample.labels)
        changed.append(dataclasses.replace(sample, labels=labels, objects=(slots, *sample.objects)))
    agree_on_all(bench.learn(bench.plan_of(builder, changed)), bench.learn(bench.plan_of(builder, samples)))
    # The targets of cross-entropy are the tokens themselves, so what is taught is asked by place.
    forward = builder.build(samples, (), 1)
    taught = set(forward.batch.subsets.flatten()[forward.context.predict + 1].tolist())
    assert {TokenSubset.MATCHED, TokenSubset.FN, TokenSubset.CLOSURE} <= taught
    assert not {TokenSubset.FP, TokenSubset.DROPPED} & taught


@pytest.mark.invariant("TRAIN-030")
def test_the_order_of_a_steps_rollouts_changes_nothing(bench: Bench) -> None:
    answers = mixed_answers(bench)
    answers[1] = answers[1][:9]
    one = bench.learn(bench.plan(answers))
    order = [2, 0, 1]
    turned = dataclasses.replace(bench, items=[bench.items[i] for i in order])
    agree_on_all(turned.learn(turned.plan([answers[i] for i in order])), one)


@pytest.mark.invariant("TRAIN-030")
def test_segments_are_planned_whole_and_the_oldest_is_in_the_first_row(bench: Bench) -> None:
    plan = bench.plan(mixed_answers(bench))
    assert len(plan.forwards) == 2, "three samples of which two share a row"
    assert plan.forwards[0].samples[0].sample_id == bench.items[0].prompt.sample_id
    placed = [sample.sample_id for sample in samples_of(plan)]
    assert sorted(placed) == sorted(item.prompt.sample_id for item in bench.items)
    again = bench.plan(mixed_answers(bench))
    assert [s.sample_id for s in samples_of(again)] == placed, "the same lengths give the same rows"
    for forward in plan.forwards:
        assert forward.batch.input_ids.shape[1] == sum(map(len, forward.samples)) <= ROW
        names = {image.tobytes() for image in forward.images}
        wanted = {
            i.image.tobytes() for i in bench.items if i.prompt.sample_id in {s.sample_id for s in forward.samples}
        }
        assert names == wanted, "each sample goes with its own image"


@pytest.mark.invariant("TRAIN-030")
def test_a_request_says_the_learners_prompt_its_place_and_the_steps_seed(bench: Bench) -> None:
    backend = bench.script(mixed_answers(bench))
    plan = bench.phase.plan(StepRecords(7, 5, tuple(bench.items)))
    ((requests, decoding),) = backend.asked
    seed = bench.phase.settings.training_seed
    assert decoding.seed_base == rollout_seed_base(seed, 7) == plan.observed["rollout/seed_base"][0]
    assert [request.index for request in requests] == [5, 6, 7]
    assert plan.written_by == {7}
    assert [request.prompt_token_ids for request in requests] == [item.prompt.ids for item in bench.items]
    for request, item in zip(requests, bench.items, strict=True):
        (path,) = request.image_paths
        assert path.is_file() and path.name == item.record.images[0].rpartition("/")[2]


@pytest.mark.invariant("TRAIN-030")
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("prompt", r"records\.jsonl:\d+: the rollout backend has answered another prompt .* token 3 is the first"),
        ("order", r"the answer for .*records\.jsonl:\d+ is one for"),
        ("lost", "3 prompts were sent and 2 answers came back"),
    ],
)
def test_an_answer_to_another_prompt_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str, says: str
) -> None:
    backend = bench.script(mixed_answers(bench))
    honest = backend.generate

    def drifted(*arguments: Any) -> list[Any]:
        outputs = honest(*arguments)
        if fault == "order":
            return outputs[::-1]
        if fault == "lost":
            return outputs[:-1]
        ids = outputs[0].prompt_token_ids
        return [dataclasses.replace(outputs[0], prompt_token_ids=(*ids[:3], 0, *ids[4:])), *outputs[1:]]

    monkeypatch.setattr(backend, "generate", drifted)
    with pytest.raises(RolloutError, match=says):
        bench.phase.plan(StepRecords(0, 0, tuple(bench.items)))


@pytest.mark.invariant("TRAIN-032")
def test_every_evaluation_draws_by_the_seeds_of_evaluations(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = bench.trainer.parts.rollouts
    backend = Scripted(lambda _: (bench.stop,), bench.stop)
    monkeypatch.setattr(evaluation, "backend", backend)
    states = [evaluation.evaluate(step) for step in (0, 7)]
    seed = evaluation_seed_base(bench.phase.settings.training_seed)
    assert [decoding.seed_base for _, decoding in backend.asked] == [seed, seed]
    for requests, _ in backend.asked:
        assert [request.index for request in requests] == list(range(len(evaluation.records)))
        assert [request.sample_id for request in requests] == [record.source for record in evaluation.records]
    without_time = [{key: value for key, value in state.items() if "time/" not in key} for state in states]
    assert without_time[0] == without_time[1] and without_time[0]["rollout/invalid_rollouts_total"][0] > 0


@pytest.mark.invariant("TRAIN-030")
def test_a_rank_without_records_takes_part(bench: Bench) -> None:
    bench.script(mixed_answers(bench))
    plan = bench.phase.plan(StepRecords(0, 0, ()))
    assert plan.forwards == () and not [key for key in plan.observed if key.endswith("_total")]


@pytest.mark.invariant("TRAIN-030")
def test_a_rollout_of_other_weights_is_not_trained_on(bench: Bench) -> None:
    bench.script(mixed_answers(bench), lags=1)
    plan = bench.phase.plan(StepRecords(0, 0, tuple(bench.items)))
    assert plan.written_by == {-1}
    with pytest.raises(TrainingError, match="rollouts of policy version -1 would be trained on by version 0"):
        bench.trainer.training_step(bench.trainer.model, {"plan": plan})
    fresh = bench.plan(mixed_answers(bench))
    assert fresh.written_by == {0} and fresh.kind is StepKind.B
    assert float(bench.trainer.training_step(bench.trainer.model, {"plan": fresh})) > 0


@pytest.mark.invariant("TRAIN-030")
def test_a_target_that_is_too_long_loses_whole_objects_from_its_end(bench: Bench) -> None:
    item = bench.items[0]
    many = [STRANGE] * 3 + list(item.record.objects) + [STRANGE] * 12
    answer = [*bench.tokens(render_answer(many, "desc_first")), bench.stop]
    short = dataclasses.replace(bench, items=[item])
    settings, packed, lengths = bench.encoder.settings, bench.phase.settings, []
    try:
        bench.encoder.settings = dataclasses.replace(settings, max_length=4000)
        bench.phase.settings = dataclasses.replace(packed, rows=RowLimits(4000, packed.rows.per_forward))
        whole = short.plan([answer])
        assert whole.observed["rollout/prefix_objects_cut_total"][0] == 0
        limit = len(samples_of(whole)[0])
        for cap in (limit - 1, limit - 200, bench.encoder.length(item.record)):
            bench.encoder.settings = dataclasses.replace(settings, max_length=cap)
            plan = short.plan([answer])
            (cut,) = samples_of(plan)
            removed = plan.observed["rollout/prefix_objects_cut_total"][0]
            found = sum(subset is TokenSubset.MATCHED for subset in (slots.subset for slots in cut.objects))
            assert len(cut) <= cap and removed > 0
            assert plan.observed["rollout/fn_appended_total"][0] == len(item.record.objects) - found
            lengths.append((len(cut), removed))
    finally:
        bench.encoder.settings, bench.phase.settings = settings, packed
    assert lengths == sorted(lengths, key=lambda pair: pair[1]), "the lower the cap, the more is cut"
    assert lengths[-1][1] == len(many), "nothing of the rollout fits beside the ground truth"


@pytest.mark.invariant("TRAIN-030")
def test_a_lost_closure_costs_its_own_record_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rollout is known that loses it, so the writer is made to say so for one record."""
    answers = mixed_answers(bench)
    others = dataclasses.replace(bench, items=[bench.items[0], bench.items[2]])
    wanted = others.learn(others.plan([answers[0], answers[2]]))
    honest = bench.encoder.target

    def lossy(prompt: Any, plan: Any) -> EncodedSample:
        if prompt.sample_id == bench.items[1].prompt.sample_id:
            raise ClosureError("not where it was put")
        return honest(prompt, plan)

    monkeypatch.setattr(bench.encoder, "target", lossy)
    plan = bench.plan(answers)
    assert plan.observed[CLOSURES_LOST][0] == 1 and plan.observed["rollout/samples_total"][0] == 3
    (lost,) = [sample for sample in samples_of(plan) if sample.sample_id == bench.items[1].prompt.sample_id]
    assert bool((lost.labels == IGNORE_INDEX).all()) and not lost.objects
    agree_on_all(bench.learn(plan), wanted)


@pytest.mark.invariant("TRAIN-030")
def test_dropped_objects_weigh_structure_and_not_the_end(stage2_kit: Stage2Kit, bench: Bench) -> None:
    from coordexp.losses.defaults import resolve_manifest
    from coordexp.losses.objective import build_objective

    told = pipeline(rollout_drop_invalid_struct_ce_multiplier=2.5)
    config = load_config(stage2_kit.write("multiplied", rollout_matching={"pipeline": told}))
    weighed = bench.builder(build_objective(resolve_manifest(config)), Provenance.B)
    plain = bench.builder(bench.trainer.parts.run.objective, Provenance.B)
    samples = samples_of(bench.plan(mixed_answers(bench)))
    before, after = (builder.build(samples, (), 1).context for builder in (plain, weighed))
    struct = before.of_type(TokenType.STRUCT)
    assert torch.equal(after.predict, before.predict)
    assert torch.equal(after.weight[struct], 2.5 * before.weight[struct])
    assert torch.equal(after.weight[~struct], before.weight[~struct])
