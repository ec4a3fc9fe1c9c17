"""Steps of Channel A in a trainer: oracles against stage 1, its plans, and runs in which both channels take turns."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from coordexp.config import load_config
from coordexp.encode.types import TokenSubset
from coordexp.forward.self_context import SelfContext
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import build_stage1_objective
from coordexp.metrics.payload import build_payload
from coordexp.packing.positions import build_rope_index
from coordexp.training.forwards import ForwardBuilder, agree
from coordexp.training.types import StepKind, StepPlan, StepRecords
from tests.plugins.stage2 import Learnt, disagreements, learn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.plugins.stage1 import Stage1Kit
    from tests.plugins.stage2 import Stage2Kit

ROW = 300
"""Tokens of a row; of the three samples two share one."""
GEO = {"smoothl1_weight": 2.0, "ciou_weight": 0.5}
COORD = {"soft_ce_weight": 1.5, "w1_weight": 0.7, "temperature": 1.4, "target_sigma": 8.0}


def authored(**token_ce: float) -> dict[str, Any]:
    """Stage 1's objective, as a pipeline: names at 3, nothing on structure in the self context."""
    weights = {"desc_ce_weight": 3.0, "self_context_struct_ce_weight": 0.0, "rollout_fn_desc_weight": 3.0, **token_ce}
    reg = {**COORD, "self_context_soft_ce_weight": COORD["soft_ce_weight"], "coord_gate_weight": 0.9}
    return {
        "objective": [
            {"name": "token_ce", "config": weights},
            {"name": "bbox_geo", "config": GEO},
            {"name": "coord_reg", "config": reg},
        ],
        "diagnostics": [{"name": "coord_diag", "config": {}}],
    }


def write(kit: Stage2Kit, name: str, ratio: float, row: int = 600, **sections: dict[str, Any]) -> Path:
    """A two-channel config on the miniature's files."""
    channels = {"schedule": {"b_ratio": ratio}, "pipeline": authored()} | sections.pop("stage2_ab", {})
    rollouts = {"pipeline": None} | sections.pop("rollout_matching", {})
    custom = {"trainer_variant": "stage2_two_channel"} | sections.pop("custom", {})
    return kit.write(name, row, custom=custom, stage2_ab=channels, rollout_matching=rollouts, **sections)


@dataclasses.dataclass
class Bench:
    """A built trainer and the first records of its training set."""

    trainer: Any
    items: list[Any]

    @property
    def encoder(self) -> Any:
        return self.trainer.parts.run.encoder

    def plan(self, items: Sequence[Any] | None = None, step: int = 0) -> StepPlan:
        chosen = tuple(self.items if items is None else items)
        return self.trainer.parts.plans.make(StepRecords(step, 0, chosen))

    def learn(self, plan: StepPlan, **changes: Any) -> Learnt:
        """Loss and gradients of a plan, by the run's own runner with `changes`."""
        return learn(self.trainer, plan, **changes)


def build(kit: Stage2Kit, name: str, **sections: Any) -> Bench:
    from coordexp.training.stage2_two_channel import build_stage2_two_channel

    trainer = build_stage2_two_channel(load_config(write(kit, name, 0.0, ROW, **sections)))
    dataset = trainer.parts.dataset
    return Bench(trainer, [dataset[index] for index in range(3)])


@pytest.fixture(scope="module")
def bench(stage2_kit: Stage2Kit) -> Bench:
    return build(stage2_kit, "channel_a")


@pytest.fixture(scope="module")
def stage1_objective(stage1_kit: Stage1Kit) -> Any:
    distribution = {"enabled": True, "gate_weight": 0.9, **COORD}
    custom = {"desc_ce_weight": 3.0, "coord_soft_ce_w1": distribution, "bbox_geo": {"enabled": True, **GEO}}
    return build_stage1_objective(load_config(stage1_kit.write("channel_a_stage1", custom=custom)).custom)


def agree_on_all(found: Learnt, wanted: Learnt) -> None:
    """Loss and every gradient are the same."""
    assert disagreements(found, wanted) == []


def as_stage1(bench: Bench, objective: Any, pad_id: int | None) -> Learnt:
    """Loss and gradients of stage 1 on the bench's records, all in one forward."""
    rope = build_rope_index(bench.trainer.model.config)
    builder = ForwardBuilder(bench.encoder, rope, objective, Provenance.STAGE1, pad_id)
    plan = agree(StepKind.GT, [builder.from_records([bench.items])], builder.filler, torch.device("cpu"))
    return bench.learn(plan, objective=objective)


@pytest.mark.invariant("TRAIN-036")
@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_one_forward_with_the_weights_of_stage_1_is_stage_1(bench: Bench, stage1_objective: Any, padded: bool) -> None:
    wanted = as_stage1(bench, stage1_objective, bench.encoder.tokenizer.pad_token_id if padded else None)
    found = bench.learn(bench.plan(), self_context=SelfContext(1))
    agree_on_all(found, wanted)
    for item in bench.items:  # and on each record by itself
        one = dataclasses.replace(bench, items=[item])
        agree_on_all(one.learn(one.plan(), self_context=SelfContext(1)), as_stage1(one, stage1_objective, None))


@pytest.mark.invariant("TRAIN-036")
@pytest.mark.parametrize("iterations", [1, 2])
def test_structure_of_the_self_context_adds_its_own_share(stage2_kit: Stage2Kit, bench: Bench, iterations: int) -> None:
    pipeline = authored(self_context_struct_ce_weight=0.4)
    other = build(stage2_kit, f"channel_a_struct_{iterations}", stage2_ab={"pipeline": pipeline})
    other.trainer.model.load_state_dict(bench.trainer.model.state_dict())
    settings = SelfContext(iterations)
    losses = [one.learn(one.plan(), self_context=settings)[0] for one in (bench, other)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.invariant("TRAIN-036")
def test_a_plan_of_channel_a_is_ground_truth_packed_as_rollouts_are(bench: Bench) -> None:
    plan = bench.plan()
    truths = {item.prompt.sample_id: bench.encoder.sample(item.record, item.prompt) for item in bench.items}
    assert plan.kind is StepKind.A and not plan.written_by and len(plan.forwards) == 2
    assert plan.forwards[0].samples[0].sample_id == bench.items[0].prompt.sample_id
    placed = [sample for forward in plan.forwards for sample in forward.samples]
    assert sorted(sample.sample_id for sample in placed) == sorted(truths)
    images = {item.prompt.sample_id: item.image for item in bench.items}
    for forward in plan.forwards:
        assert forward.batch.input_ids.shape[1] == sum(map(len, forward.samples)) <= ROW
        assert [context.provenance for context in forward.contexts] == [Provenance.A1, Provenance.A2]
        for sample, image in zip(forward.samples, forward.images, strict=True):
            assert image is images[sample.sample_id], "each sample goes with its own image"
            assert sample.input_ids.tolist() == truths[sample.sample_id].input_ids.tolist()
            assert {slots.subset for slots in sample.objects} == {TokenSubset.GT}
    assert {key for key in plan.observed if not key.startswith("stage2_ab/")} == set()


@pytest.mark.invariant("TRAIN-036")
def test_counts_are_of_both_contexts(bench: Bench) -> None:
    plan = bench.plan()
    counts = [count_normalizers(context) for forward in plan.forwards for context in forward.contexts]
    torch.testing.assert_close(plan.normalizers.values, torch.stack([count.values for count in counts]).sum(0))
    boxes = sum(len(item.record.objects) for item in bench.items)
    assert float(plan.normalizers["smoothl1"]) == boxes, "boxes are the last forward's alone"


@pytest.mark.invariant("TRAIN-036")
@pytest.mark.parametrize("grad_mode", ["unroll", "em_detach"])
def test_packs_and_rows_of_a_step_learn_the_same(bench: Bench, stage2_kit: Stage2Kit, grad_mode: Any) -> None:
    padded = build(stage2_kit, f"channel_a_padded_{grad_mode}", training={"packing": False})
    padded.trainer.model.load_state_dict(bench.trainer.model.state_dict())
    settings = SelfContext(3, grad_mode)
    assert len(padded.plan().forwards) == 3 and len(bench.plan().forwards) == 2
    found, wanted = (one.learn(one.plan(), self_context=settings) for one in (padded, bench))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    largest = max(float(grad.abs().max()) for grad in wanted[1].values())
    for name, grad in wanted[1].items():
        assert float((found[1][name] - grad).abs().max()) <= 1e-4 * largest, name


@pytest.mark.invariant("TRAIN-036")
def test_a_rank_without_records_takes_part(bench: Bench) -> None:
    plan = bench.plan([])
    assert plan.forwards == () and float(plan.normalizers.values.sum()) == 0.0
    filler = bench.trainer.parts.plans.make.__self__.a.__self__.builder.filler()
    assert filler.is_filler and len(filler.contexts) == 2
    counts = [count_normalizers(context).values for context in filler.contexts]
    assert all(not count.any() for count in counts)
    loss, grads = bench.learn(dataclasses.replace(bench.plan(), forwards=(filler,)))
    assert loss == 0.0 and grads and all(not grad.any() for grad in grads.values())


@pytest.mark.invariant("TRAIN-036")
def test_a_validation_is_stage_1s_whatever_the_channels(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    calls = []
    forward = Qwen3VLForConditionalGeneration.forward
    monkeypatch.setattr(
        Qwen3VLForConditionalGeneration, "forward", lambda *a, **k: calls.append(sorted(k)) or forward(*a, **k)
    )
    validation = bench.trainer.parts.validation
    planned = next(iter(validation))["forward"]
    assert [context.provenance for context in planned.contexts] == [Provenance.STAGE1]
    with torch.no_grad():
        bench.trainer.parts.run(bench.trainer.model, planned, validation.normalizers())
    assert len(calls) == 1 and "input_ids" in calls[0]


@dataclasses.dataclass(frozen=True)
class Ran:
    """A finished run: its log lines, its folder, and the plans of its steps."""

    log: list[dict[str, float]]
    folder: Path
    plans: list[StepPlan]

    def steps(self) -> list[dict[str, float]]:
        return [line for line in self.log if "loss" in line]


def train(path: Path, order: list[list[str]] | None = None) -> Ran:
    from coordexp.training.stage2_two_channel import build_stage2_two_channel
    from coordexp.training.trainer import train_to_end

    trainer = build_stage2_two_channel(load_config(path))
    plans: list[StepPlan] = []
    make = trainer.parts.plans.make

    def noted(records: StepRecords) -> StepPlan:
        plans.append(make(records))
        if order is not None:
            order.append([item.prompt.sample_id for item in records.prepared])
        return plans[-1]

    trainer.parts.plans.make = noted
    train_to_end(trainer)
    folder = Path(trainer.args.output_dir)
    lines = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    return Ran([json.loads(line) for line in lines], folder, plans)


@pytest.fixture(scope="module")
def mixed(stage2_kit: Stage2Kit) -> tuple[Ran, list[list[str]]]:
    """An epoch of both channels: 14 records, 4 a step, every second step on rollouts; and the records of each step."""
    order: list[list[str]] = []
    training = {"max_steps": None, "num_train_epochs": 1, "eval_strategy": "epoch"}
    return train(write(stage2_kit, "mixed", 0.5, training=training), order), order


@pytest.mark.invariant("TRAIN-036")
@pytest.mark.invariant("TRAIN-037")
def test_each_record_is_drawn_once_an_epoch_whichever_channel_takes_it(mixed: tuple[Ran, list[list[str]]]) -> None:
    ran, order = mixed
    assert [plan.kind for plan in ran.plans] == [StepKind.A, StepKind.B, StepKind.A, StepKind.B]
    assert [len(records) for records in order] == [4, 4, 4, 2]
    assert len({sample for records in order for sample in records}) == 14
    for plan, records in zip(ran.plans, order, strict=True):
        trained = [sample.sample_id for forward in plan.forwards for sample in forward.samples]
        assert sorted(trained) == sorted(records)
    assert [line["data/samples_total"] for line in ran.steps()] == [4, 4, 4, 2]


@pytest.mark.invariant("TRAIN-037")
@pytest.mark.invariant("TRAIN-038")
def test_a_line_says_what_its_channel_did_and_nothing_of_the_other(mixed: tuple[Ran, list[list[str]]]) -> None:
    ran, _ = mixed
    lines = ran.steps()
    assert [line["stage2_ab/b_ratio_realized"] for line in lines] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    for plan, line in zip(ran.plans, lines, strict=True):
        rollouts = {key for key in line if key.startswith(("rollout/", "time/rollout_"))}
        contexts = {key.split("/")[1] for key in line if key.startswith(("loss/A", "loss/B", "coord_diag/"))}
        assert bool(rollouts) == (plan.kind is StepKind.B)
        assert contexts == ({"B"} if plan.kind is StepKind.B else {"A1", "A2"})
        build_payload("train", 1, {key: value for key, value in line.items() if "/" in key})
        if plan.kind is StepKind.A:
            assert line["loss/geo"] == line["loss/A2/geo"] and "loss/A1/geo" not in line
            assert line["loss/desc_ce"] == line["loss/A1/desc_ce"] and "loss/A2/desc_ce" not in line
    (evaluation,) = [line for line in ran.log if "eval_loss" in line]
    assert not {key for key in evaluation if key.startswith(("eval_loss/A", "eval_loss/B"))}
    assert "eval_rollout/f1" in evaluation


@pytest.mark.invariant("TRAIN-038")
def test_a_line_over_several_steps_keeps_contexts_apart(stage2_kit: Stage2Kit, mixed: Any) -> None:
    settings: dict[str, Any] = {"max_steps": None, "num_train_epochs": 1, "logging_steps": 4}
    settings["logging_first_step"] = False
    (line,) = train(write(stage2_kit, "mixed_one_line", 0.5, training=settings)).steps()
    single = mixed[0].steps()
    assert line["stage2_ab/b_ratio_realized"] == 0.5
    boxes = [one["data/objects_total"] for one in single]
    for context, places in (("A2", (0, 2)), ("B", (1, 3))):
        weight = [boxes[place] for place in places]
        parts = [single[place][f"loss/{context}/geo/smoothl1"] for place in places]
        mean = sum(w * part for w, part in zip(weight, parts, strict=True)) / sum(weight)
        assert line[f"loss/{context}/geo/smoothl1"] == pytest.approx(mean, rel=1e-5), context
    whole = line["loss/geo/smoothl1"]
    assert min(line["loss/A2/geo/smoothl1"], line["loss/B/geo/smoothl1"]) < whole
    assert whole < max(line["loss/A2/geo/smoothl1"], line["loss/B/geo/smoothl1"])


ADAPTER: dict[str, Any] = {
    "tuner": {"tuner_type": "lora", "target_modules": ["q_proj", "v_proj"], "lora_rank": 2, "lora_alpha": 4},
    "training": {"gradient_checkpointing": True, "bf16": True},
    "custom": {"coord_offset": {"enabled": True, "tie_head": False, "embed_lr": 1e-2, "head_lr": 1e-2}},
}


@pytest.mark.invariant("TRAIN-036")
@pytest.mark.parametrize(
    ("mode", "decode", "grad_mode", "iterations", "sections"),
    [
        ("soft", "exp", "unroll", 2, {}),
        ("st", "st", "em_detach", 3, {"training": {"packing": False, "gradient_checkpointing": True}}),
        ("hard", "st", "unroll", 2, ADAPTER),
        ("st", "exp", "unroll", 2, ADAPTER),
    ],
)
def test_every_mode_trains(
    stage2_kit: Stage2Kit, mode: str, decode: str, grad_mode: str, iterations: int, sections: dict[str, Any]
) -> None:
    channels = {
        "coord_ctx_embed_mode": mode,
        "coord_decode_mode": decode,
        "softctx_grad_mode": grad_mode,
        "n_softctx_iter": iterations,
        "pipeline": authored(self_context_struct_ce_weight=0.1),
    }
    name = f"mode_{mode}_{decode}_{grad_mode}"
    training = {"max_steps": 3, **sections.get("training", {})}
    path = write(stage2_kit, name, 1 / 3, stage2_ab=channels, **{**sections, "training": training})
    ran = train(path)
    assert [plan.kind for plan in ran.plans] == [StepKind.A, StepKind.A, StepKind.B]
    for line in ran.steps():
        assert math.isfinite(line["loss"]) and line["grad_norm"] > 0
