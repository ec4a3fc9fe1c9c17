"""Packing changes nothing but speed: five proofs on the real Qwen3-VL class, for each attention that needs no GPU."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from coordexp.encode.types import IGNORE_INDEX, EncodedSample, TokenType
from coordexp.forward.head import OutputHead, install_vocabulary_head, output_head
from coordexp.forward.teacher import teacher_forward
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.losses.objective import Objective
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.vocab import score_hidden
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import RopeIndex, build_rope_index
from tests.plugins.tiny_qwen import COORD_IDS, PAD, four_samples, random_sample, tiny_config, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coordexp.packing.types import PackedBatch

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["sdpa", "eager", "segments"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def rope() -> RopeIndex:
    return build_rope_index(tiny_config())


def logits(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
    return model(**batch.model_inputs(), use_cache=False).logits


def by_sample(values: torch.Tensor, batch: PackedBatch) -> list[torch.Tensor]:
    return [values[segment.row, segment.start : segment.end] for segment in batch.segments]


class PlainLoss:
    """Cross entropy of text labels and soft cross entropy of coord slots (Gaussian, two bins), each over its count."""

    def counts(self, batch: PackedBatch) -> torch.Tensor:
        return torch.tensor(
            [float(len(self.text_targets(batch)[0])), sum(len(slots.positions) for slots in batch.objects)]
        )

    def __call__(
        self, hidden: torch.Tensor, head: OutputHead, batch: PackedBatch, counts: torch.Tensor
    ) -> torch.Tensor:
        rows, columns = self.text_targets(batch)
        text = F.cross_entropy(head.logits(hidden[rows, columns - 1]), batch.labels[rows, columns], reduction="sum")
        slots = [(item.row, p, k) for item in batch.objects for p, k in zip(item.positions, item.bins, strict=True)]
        row, position, bins = torch.tensor(slots, dtype=torch.long).reshape(-1, 3).T
        target = torch.softmax(-((torch.arange(1000) - bins[:, None]) ** 2) / 8.0, -1)
        coord = -(target * head.coord_logits(hidden[row, position - 1]).log_softmax(-1)).sum()
        return text / counts[0] + coord / counts[1]

    @staticmethod
    def text_targets(batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = (batch.labels != IGNORE_INDEX) & (batch.token_types != TokenType.COORD)
        return torch.nonzero(wanted, as_tuple=True)


class StageOneLoss:
    """The runtime's own stage-1 objective with every term on."""

    def __init__(self) -> None:
        entries = (
            ModuleEntry("token_ce", TokenCEConfig(desc_ce_weight=2.0)),
            ModuleEntry("bbox_geo", BboxGeoConfig()),
            ModuleEntry(
                "coord_reg",
                CoordRegConfig(soft_ce_weight=1.0, w1_weight=1.0, coord_gate_weight=1.0, text_gate_weight=1.0),
            ),
        )
        self.objective = Objective(Manifest(entries))

    def counts(self, batch: PackedBatch) -> torch.Tensor:
        return count_normalizers(self.objective.context(batch, Provenance.STAGE1)).to_tensor()

    def __call__(
        self, hidden: torch.Tensor, head: OutputHead, batch: PackedBatch, counts: torch.Tensor
    ) -> torch.Tensor:
        context = self.objective.context(batch, Provenance.STAGE1)
        return self.objective(context, score_hidden(hidden, head), Normalizers.from_tensor(counts)).total


@pytest.fixture(scope="module", params=[PlainLoss, StageOneLoss])
def loss(request: pytest.FixtureRequest) -> PlainLoss | StageOneLoss:
    return request.param()


Step = tuple[float, dict[str, torch.Tensor]]


def window_gradients(model: torch.nn.Module, loss: PlainLoss | StageOneLoss, batches: Sequence[PackedBatch]) -> Step:
    """Loss and gradients of one optimizer step over `batches`, each run by itself, divided by the counts of all."""
    model.zero_grad(set_to_none=True)
    install_vocabulary_head(model)
    counts = torch.stack([loss.counts(batch) for batch in batches]).sum(0)
    total = 0.0
    for batch in batches:
        (value,) = teacher_forward(
            model,
            batch,
            output_head(model, COORD_IDS),
            lambda hidden, head, batch=batch: (loss(hidden, head, batch, counts),),
        )
        value.backward()
        total += float(value)
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_step(found: Step, expected: Step) -> None:
    assert found[0] == pytest.approx(expected[0], abs=TOLERANCE, rel=TOLERANCE)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-4, atol=TOLERANCE * max(1.0, float(gradient.abs().max()))
        )


def partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    """Every way to lay `items` into packs."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for place in range(len(rest)):
            yield [*rest[:place], [items[0], *rest[place]], *rest[place + 1 :]]


def compositions(total: int) -> Iterator[list[int]]:
    """Every way to write `total` as an ordered sum."""
    for cuts in itertools.product([False, True], repeat=total - 1):
        sizes = [1]
        for cut in cuts:
            if cut:
                sizes.append(1)
            else:
                sizes[-1] += 1
        yield sizes


@pytest.mark.invariant("PACK-011")
@torch.no_grad()
def test_packed_logits_equal_the_separate_ones(model, rope):
    samples = four_samples()
    packed = collate_packed(samples, rope)
    for sample, found in zip(samples, by_sample(logits(model, packed), packed), strict=True):
        alone = model(
            input_ids=sample.input_ids[None],
            mm_token_type_ids=sample.mm_token_type_ids[None],
            pixel_values=sample.pixel_values,
            image_grid_thw=sample.image_grid_thw,
            use_cache=False,
        ).logits[0]
        assert alone.abs().max() > 0.5, "logits near zero would agree by themselves"
        torch.testing.assert_close(found, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.invariant("PACK-011")
@torch.no_grad()
def test_a_sample_of_one_token_is_a_segment_of_its_own(model, rope):
    single = random_sample(9, (), words=0, boxes=0)
    packed = collate_packed([single, random_sample(2), single, single], rope)
    found = by_sample(logits(model, packed), packed)
    alone = logits(model, collate_packed([single], rope))[0]
    for place in (0, 2, 3):
        torch.testing.assert_close(found[place], alone, rtol=0, atol=TOLERANCE)


@pytest.mark.invariant("PACK-011")
@torch.no_grad()
def test_padded_logits_equal_the_packed_ones(model, rope):
    samples = four_samples()
    packed, padded = collate_packed(samples, rope), collate_padded(samples, rope, PAD)
    pairs = zip(by_sample(logits(model, packed), packed), by_sample(logits(model, padded), padded), strict=True)
    for side_by_side, in_rows in pairs:
        torch.testing.assert_close(in_rows, side_by_side, rtol=0, atol=TOLERANCE)


def perturbed(sample: EncodedSample, seed: int) -> EncodedSample:
    """Other tokens and patches of the same shape."""
    boxes = sum(1 for _ in sample.objects)
    grids = () if sample.image_grid_thw is None else tuple((h, w) for _, h, w in sample.image_grid_thw.tolist())
    words = len(sample) - sample.prompt_length - 4 * boxes - 1
    return random_sample(seed, grids, words=words, boxes=boxes)


@pytest.mark.invariant("PACK-012")
@pytest.mark.parametrize("touched", range(4))
@torch.no_grad()
def test_perturbing_a_sample_moves_no_logit_of_another(model, rope, touched):
    samples = four_samples()
    before = collate_packed(samples, rope)
    samples[touched] = perturbed(samples[touched], seed=100)
    after = collate_packed(samples, rope)
    pairs = list(zip(by_sample(logits(model, before), before), by_sample(logits(model, after), after), strict=True))
    for place, (old, new) in enumerate(pairs):
        if place == touched:
            assert (old - new).abs().max() > 0.1
        else:
            torch.testing.assert_close(new, old, rtol=0, atol=1e-6)


@pytest.mark.invariant("PACK-013")
@pytest.mark.parametrize("source", range(4))
def test_the_loss_of_a_sample_sends_no_gradient_into_another(model, rope, source):
    batch = collate_packed(four_samples(), rope)
    embeddings = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_(True)
    pixels = batch.pixel_values.clone().requires_grad_(True)
    inputs = batch.model_inputs() | {"pixel_values": pixels}
    handle = model.get_input_embeddings().register_forward_hook(lambda module, args, output: embeddings)
    try:
        scores = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    by_sample(scores, batch)[source].square().sum().backward()
    patches = split_patches(pixels.grad, batch, four_samples())
    for place, (tokens, images) in enumerate(zip(by_sample(embeddings.grad, batch), patches, strict=True)):
        if place == source:
            assert tokens.abs().max() > 0
            assert images.numel() == 0 or images.abs().max() > 0
        else:
            assert not tokens.any()
            assert not images.any()


def split_patches(
    pixels: torch.Tensor, batch: PackedBatch, samples: Sequence[EncodedSample]
) -> tuple[torch.Tensor, ...]:
    return pixels.split([0 if sample.pixel_values is None else len(sample.pixel_values) for sample in samples])


@pytest.mark.invariant("PACK-014")
def test_loss_and_gradients_are_those_of_the_unpacked_samples_for_any_grouping(model, rope, loss):
    samples = four_samples()
    expected = window_gradients(model, loss, [collate_padded([sample], rope, PAD) for sample in samples])
    groupings = list(partitions(range(4)))
    assert len(groupings) == 15
    for grouping in groupings:
        found = window_gradients(model, loss, [collate_packed([samples[i] for i in pack], rope) for pack in grouping])
        assert_same_step(found, expected)


@pytest.mark.invariant("PACK-014")
def test_the_order_of_samples_within_a_pack_changes_neither_loss_nor_gradients(model, rope, loss):
    samples = four_samples()
    expected = window_gradients(model, loss, [collate_packed(samples, rope)])
    for order in ((3, 2, 1, 0), (2, 0, 3, 1)):
        assert_same_step(window_gradients(model, loss, [collate_packed([samples[i] for i in order], rope)]), expected)


@pytest.mark.invariant("PACK-014")
def test_a_padded_batch_has_the_loss_and_gradients_of_the_packed_one(model, rope, loss):
    samples = four_samples()
    assert_same_step(
        window_gradients(model, loss, [collate_padded(samples, rope, PAD)]),
        window_gradients(model, loss, [collate_packed(samples, rope)]),
    )


@pytest.mark.invariant("PACK-015")
def test_weights_after_two_steps_do_not_depend_on_the_split_over_accumulation_steps(model, rope, loss):
    """Five samples, three to a step, so the last window is partial; each window is split into forwards in every way."""
    samples = [*four_samples(), random_sample(4, ((4, 4),), words=2, boxes=2)]
    start = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        expected = None
        for first in compositions(3):
            for last in compositions(2):
                model.load_state_dict(start)
                weights = two_steps(model, loss, samples, [first, last], rope)
                expected = expected or weights
                for name, value in expected.items():
                    torch.testing.assert_close(weights[name], value, rtol=0, atol=TOLERANCE)
    finally:
        model.load_state_dict(start)
    assert any((expected[name] - start[name]).abs().max() > 1e-3 for name in expected)


def two_steps(
    model: torch.nn.Module,
    loss: PlainLoss | StageOneLoss,
    samples: list[EncodedSample],
    windows: list[list[int]],
    rope: RopeIndex,
) -> dict[str, torch.Tensor]:
    remaining = iter(samples)
    for window in windows:
        batches = [collate_packed(list(itertools.islice(remaining, size)), rope) for size in window]
        _, gradients = window_gradients(model, loss, batches)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in gradients:
                    parameter -= 0.05 * gradients[name]
    return {name: value.clone() for name, value in model.named_parameters()}
