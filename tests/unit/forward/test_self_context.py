"""Channel A's loop on the real architecture: what each forward is fed, how many run, and what learns."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import peft
import pytest
import torch

from coordexp.encode.assemble import without_targets
from coordexp.forward.coord_offset import install_coord_offset
from coordexp.forward.head import install_vocabulary_head, output_head
from coordexp.losses.vocab import score_hidden
from tests.plugins.tiny_qwen import COORD_IDS, IMAGE_PAD, random_sample, tiny_model
from tests.unit.forward.channel_a import WEIGHTS, Step, Way, by_hand, coord_embeddings, samples, seen_by

MODES = ("soft", "st", "hard")
GRADS = ("unroll", "em_detach")
LORA = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)


def offset_model() -> Any:
    """The small model with coord offsets that differ at both ends."""
    model = tiny_model()
    install_vocabulary_head(model)
    adapter = install_coord_offset(model, COORD_IDS, tie_head=False)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for offset in (adapter.embed_offset, adapter.head_offset):
            offset.copy_(0.3 * torch.randn(offset.shape, generator=generator))
    return model


def embeddings_of(step: Step) -> list[torch.Tensor | None]:
    """The embeddings that each forward of the model was given; None for one that was given ids."""
    return [call.get("inputs_embeds") for call in seen_by(step.model, step.model, step.run)]


@pytest.mark.invariant("FWD-018")
@pytest.mark.parametrize("offsets", [False, True], ids=["plain", "offsets"])
@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("mode", MODES)
def test_a_slot_is_fed_what_the_state_before_it_said_and_nothing_else_changes(mode, padded, offsets):
    model = offset_model() if offsets else tiny_model()
    step = Step(model, Way(4, mode, "unroll"), padded=padded)
    with torch.no_grad():
        first, *later = embeddings_of(step)
        wanted = [embeddings for _, embeddings in by_hand(step)]
        base = model.get_input_embeddings()(step.batch.input_ids)
    assert first is None and len(later) == 3
    slots = torch.zeros(base.flatten(0, 1).shape[0], dtype=torch.bool)
    slots[step.slots()] = True
    previous = base.flatten(0, 1)
    for number, (found, hand) in enumerate(zip(later, wanted[1:], strict=True), 1):
        flat = found.flatten(0, 1)
        assert torch.equal(flat[~slots], base.flatten(0, 1)[~slots]), f"forward {number} moved another row"
        torch.testing.assert_close(flat[slots], hand.flatten(0, 1)[slots], rtol=1e-4, atol=1e-5)
        assert not torch.equal(flat[slots], previous[slots]), "each forward reads the one before it"
        previous = flat
    assert torch.equal(base, model.get_input_embeddings()(step.batch.input_ids)), "the embedding itself is not written"


@pytest.mark.invariant("FWD-018")
def test_image_placeholders_take_the_same_pixels_in_every_forward():
    step = Step(tiny_model(), Way(3, "soft", "unroll"))
    with torch.no_grad():
        calls = seen_by(step.model, step.model.model.language_model, step.run)
    images = step.batch.input_ids == IMAGE_PAD
    rows = [call["inputs_embeds"][images] for call in calls]
    plain = step.model.get_input_embeddings()(step.batch.input_ids)[images]
    assert len(rows) == 3 and not torch.allclose(rows[0], plain), "pixels are in the placeholders' place"
    assert all(torch.equal(one, rows[0]) for one in rows[1:])
    assert all(torch.equal(call["visual_pos_masks"], images) for call in calls)


@pytest.mark.invariant("FWD-018")
def test_the_coord_distribution_is_the_objectives():
    rows = {}
    for temperature in (0.5, 1.7):
        weights = {**WEIGHTS, "coord_reg": {**WEIGHTS["coord_reg"], "temperature": temperature}}
        step = Step(tiny_model(), Way(2, "soft", "unroll"), weights)
        with torch.no_grad():
            rows[temperature] = embeddings_of(step)[1].flatten(0, 1)[step.slots()]
            torch.testing.assert_close(rows[temperature], by_hand(step)[1][1].flatten(0, 1)[step.slots()])
    assert (rows[0.5] - rows[1.7]).abs().max() > 1e-3


@pytest.mark.invariant("FWD-019")
@pytest.mark.parametrize("grads", GRADS)
@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_channel_a_is_as_many_forwards_as_it_says_by_ids_first_and_by_embeddings_after(iterations, grads):
    step = Step(tiny_model(), Way(iterations, "st", grads))
    calls = seen_by(step.model, step.model, step.run)
    assert len(calls) == iterations
    batch = step.batch
    for number, call in enumerate(calls):
        tokens = "input_ids" if number == 0 else "inputs_embeds"
        assert set(call) == {
            "args", tokens, "position_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw", "use_cache"
        }  # fmt: skip
        assert call["args"] == () and call["use_cache"] is False
        assert torch.equal(call["position_ids"], batch.position_ids) and call["position_ids"].shape[0] == 4


@pytest.mark.invariant("FWD-019")
def test_without_slots_the_same_forwards_run():
    found = [without_targets(sample) for sample in samples()]
    step = Step(tiny_model(), Way(3, "st", "unroll"), found=found)
    with torch.no_grad():
        assert len(embeddings_of(step)) == 3
    total, grads = step.learn()
    assert total == 0.0 and grads and all(not grad.any() for grad in grads.values())


@pytest.mark.invariant("FWD-019")
def test_what_a_generation_leaves_behind_has_no_effect():
    fresh, used = Step(tiny_model(), Way(3)), Step(tiny_model(), Way(3))
    sample = random_sample(9, ((6, 4),))
    prompt = sample.prompt_length
    used.model.generate(
        input_ids=sample.input_ids[None, :prompt],
        attention_mask=torch.ones(1, prompt, dtype=torch.long),
        mm_token_type_ids=sample.mm_token_type_ids[None, :prompt],
        pixel_values=sample.pixel_values,
        image_grid_thw=sample.image_grid_thw,
        max_new_tokens=4,
        do_sample=False,
    )
    assert used.model.model.rope_deltas is not None
    wanted, found = fresh.learn(), used.learn()
    assert found[0] == wanted[0] and all(torch.equal(found[1][name], grad) for name, grad in wanted[1].items())


@pytest.mark.invariant("FWD-019")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_the_anchor_is_of_the_first_forward_and_coordinates_are_of_the_last(iterations, mode):
    step = Step(offset_model(), Way(iterations, mode, "unroll"))
    with torch.no_grad():
        found = step.run()
        states = [hidden for hidden, _ in by_hand(step)]
        head = output_head(step.model, COORD_IDS)
        anchor, last = (
            step.objective(context, score_hidden(hidden, head), step.normalizers)
            for context, hidden in zip(step.planned.contexts, (states[0], states[-1]), strict=True)
        )
    torch.testing.assert_close(found.total, anchor.total + last.total)
    assert found.metrics() == pytest.approx((anchor + last).metrics(), rel=1e-4)
    for one in (anchor, last):
        ((context, sums),) = one.by_context.items()
        torch.testing.assert_close(found.by_context[context].to_tensor(), sums.to_tensor(), rtol=1e-4, atol=1e-5)
    assert "loss/geo" in last.metrics() and "loss/geo" not in anchor.metrics()
    assert "loss/desc_ce" in anchor.metrics() and "loss/desc_ce" not in last.metrics()


def alone(name: str, key: str) -> dict[str, dict[str, float]]:
    """Weights that leave the one term `key` of module `name`."""
    zeros = {"token_ce": {"self_context_struct_ce_weight": 0.0, "desc_ce_weight": 0.0}}
    zeros |= {"bbox_geo": {"smoothl1_weight": 0.0, "ciou_weight": 0.0}}
    zeros |= {"coord_reg": {"self_context_soft_ce_weight": 0.0}}
    zeros[name][key] = WEIGHTS[name][key]
    # The anchor's structure has no weight of its own: the module is left out where it is not the one asked for.
    return {module: config for module, config in zeros.items() if module == name}


TERMS = [
    ("token_ce", "desc_ce_weight"),
    ("token_ce", "self_context_struct_ce_weight"),
    ("bbox_geo", "smoothl1_weight"),
    ("bbox_geo", "ciou_weight"),
    *(("coord_reg", key) for key in WEIGHTS["coord_reg"] if key.endswith("_weight") and key != "soft_ce_weight"),
]


def first_layer(grads: dict[str, torch.Tensor]) -> float:
    """Gradient at the bottom of the text tower: what is learnt below the head."""
    return float(grads["model.language_model.layers.0.self_attn.v_proj.weight"].abs().max())


@pytest.mark.invariant("FWD-020")
@pytest.mark.parametrize("grads", GRADS)
@pytest.mark.parametrize(("name", "key"), TERMS)
def test_every_component_with_a_weight_has_a_gradient_of_its_own(name, key, grads):
    weights = alone(name, key)
    if key == "text_gate_weight":  # asked of structure that has a weight in the self context
        weights["token_ce"] = {"self_context_struct_ce_weight": 0.4, "desc_ce_weight": 0.0}
    found = Step(tiny_model(), Way(3, "st", grads), weights).learn()[1]
    without = {module: {**config, **({key: 0.0} if module == name else {})} for module, config in weights.items()}
    rest = Step(tiny_model(), Way(3, "st", grads), without).learn()[1]
    label = "model.language_model.layers.0.self_attn.v_proj.weight"
    assert float((found[label] - rest[label]).abs().max()) > 1e-7


@pytest.mark.invariant("FWD-020")
@pytest.mark.parametrize("grads", GRADS)
def test_the_anchor_learns_as_teacher_forcing_does(grads):
    weights = {"token_ce": {"desc_ce_weight": 1.3, "self_context_struct_ce_weight": 0.0}}
    plain = Step(tiny_model(), Way(1), weights).learn()
    found = Step(tiny_model(), Way(3, "st", grads), weights).learn()
    assert found[0] == pytest.approx(plain[0], rel=1e-6) and first_layer(plain[1]) > 1e-3
    for name, grad in plain[1].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-7)


class DoubleNorm(torch.nn.Module):
    """The text tower's norm in float64; transformers' own rounds to float32."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


def double() -> Any:
    """The small model in float64, its vision tower at rest: that one turns positions in float32."""
    model = tiny_model().double()
    model.model.visual.requires_grad_(False)
    text = model.model.language_model
    for name, module in list(text.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            text.set_submodule(name, DoubleNorm(module))
    return model


def double_samples() -> list[Any]:
    return [dataclasses.replace(sample, pixel_values=sample.pixel_values.double()) for sample in samples()]


class Frozen:
    """Gives each forward after the first the slot rows that it was given in a recorded run."""

    def __init__(self, step: Step) -> None:
        self.slots, self.number = step.slots(), 0
        with torch.no_grad():
            self.rows = [seen.flatten(0, 1)[self.slots] for seen in embeddings_of(step)[1:]]

    def __call__(self, _: Any, args: Any, kwargs: Any) -> Any:
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None:
            self.number = 0
            return args, kwargs
        flat = embeddings.flatten(0, 1).index_copy(0, self.slots, self.rows[self.number])
        self.number += 1
        return args, kwargs | {"inputs_embeds": flat.view_as(embeddings)}


@pytest.mark.invariant("FWD-020")
@pytest.mark.parametrize("iterations", [2, 3])
def test_gradients_are_those_of_finite_differences(iterations):
    """Of the whole loop under unroll, and with what is fed held fast under em_detach."""
    slopes = {}
    # CIoU holds α fast by definition, so it has no finite differences.
    weights = {**WEIGHTS, "bbox_geo": {"smoothl1_weight": 2.0, "ciou_weight": 0.0}}
    for grads in GRADS:
        step = Step(double(), Way(iterations, "soft", grads), weights, found=double_samples())
        found = step.learn()[1]
        generator = torch.Generator().manual_seed(3)
        parameters = [p for p in step.model.parameters() if p.requires_grad]
        push = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().std() for p in parameters]
        names = {id(p): name for name, p in step.model.named_parameters()}
        slope = sum(float((found[names[id(p)]] * d).sum().detach()) for p, d in zip(parameters, push, strict=True))
        handle = None
        if grads == "em_detach":
            handle = step.model.register_forward_pre_hook(Frozen(step), with_kwargs=True)

        def at(distance: float, step=step, parameters=parameters, push=push) -> float:
            with torch.no_grad():
                for p, d in zip(parameters, push, strict=True):
                    p.add_(distance * d)
                total = float(step.run().total)
                for p, d in zip(parameters, push, strict=True):
                    p.sub_(distance * d)
            return total

        near = (at(1e-6) - at(-1e-6)) / 2e-6
        if handle is not None:
            handle.remove()
        assert slope == pytest.approx(near, rel=1e-6), grads
        slopes[grads] = slope
    assert slopes["unroll"] != pytest.approx(slopes["em_detach"], rel=1e-2), "the two modes are two gradients"


@pytest.mark.invariant("FWD-020")
def test_forwards_between_run_without_gradient_under_em_detach():
    graded: dict[str, list[bool]] = {}
    for grads in GRADS:
        step = Step(tiny_model(), Way(4, "st", grads))
        layer = step.model.model.language_model.layers[-1]
        noted: list[bool] = []
        handle = layer.register_forward_hook(lambda _m, _a, out, noted=noted: noted.append(out.requires_grad))
        step.run()
        handle.remove()
        graded[grads] = noted
    assert graded == {"unroll": [True] * 4, "em_detach": [True, False, False, True]}


def largest(grads: dict[str, torch.Tensor]) -> float:
    return max(float(grad.abs().max()) for grad in grads.values())


def assert_near(
    found: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]], close=1e-5
):
    assert found[0] == pytest.approx(wanted[0], rel=close)
    assert found[1].keys() == wanted[1].keys()
    for name, grad in wanted[1].items():
        assert float((found[1][name] - grad).abs().max()) <= close * largest(wanted[1]), name


@pytest.mark.invariant("FWD-020")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grads", GRADS)
def test_packed_and_padded_learn_the_same(mode, grads):
    settings = Way(3, mode, grads)
    assert_near(Step(tiny_model(), settings, padded=True).learn(), Step(tiny_model(), settings).learn())


@pytest.mark.invariant("FWD-020")
@pytest.mark.parametrize("tuned", ["full", "adapter"])
@pytest.mark.parametrize("grads", GRADS)
def test_gradient_checkpointing_changes_nothing(grads, tuned):
    found = {}
    for checkpointing in (False, True):
        model = tiny_model()
        install_vocabulary_head(model)
        if tuned == "adapter":
            torch.manual_seed(5)
            model = peft.get_peft_model(model, LORA)
            install_coord_offset(model, COORD_IDS, tie_head=True)
            if checkpointing:
                model.enable_input_require_grads()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        step = Step(model, Way(3, "st", grads))
        found[checkpointing] = step.learn()
    assert_near(found[True], found[False])
    names = " ".join(found[True][1])
    assert tuned == "full" or ("lora_A" in names and "embed_offset" in names and "base_layer" not in names)


@pytest.mark.invariant("FWD-018")
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_feeds_rows_of_the_embedding_and_moves_no_other(mode, weights):
    model = tiny_model().to(getattr(torch, weights))
    step = Step(model, Way(3, mode, "unroll"))
    autocast = torch.autocast("cpu", torch.bfloat16) if weights == "float32" else nullcontext()
    with autocast, torch.no_grad():
        later = embeddings_of(step)[1:]
    base = model.get_input_embeddings()(step.batch.input_ids).flatten(0, 1)
    slots = torch.zeros(base.shape[0], dtype=torch.bool)
    slots[step.slots()] = True
    rows = coord_embeddings(model)
    for found in later:
        flat = found.flatten(0, 1)
        assert flat.dtype == base.dtype and torch.equal(flat[~slots], base[~slots])
        exact = torch.tensor([bool((rows == row).all(-1).any()) for row in flat[slots]])
        assert bool(exact.all()) == (mode != "soft"), "the likeliest row is a row of the table, to the last bit"
    with autocast:
        total, grads = step.learn()
    exactly = Step(tiny_model(), Way(3, mode, "unroll")).run().total
    assert total == pytest.approx(float(exactly.detach()), rel=0.05) and all(
        bool(g.isfinite().all()) for g in grads.values()
    )
