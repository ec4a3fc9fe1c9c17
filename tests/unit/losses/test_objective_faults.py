"""What an objective says when it can't go on, and what it takes without a word: faults, precisions, odd batches."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import reduce
from operator import add

import pytest
import torch

from coordexp.encode.types import TokenSubset, TokenType
from coordexp.losses import registry
from coordexp.losses.boxes import canonicalize, complete_iou_loss, smooth_l1
from coordexp.losses.coord_atoms import bin_values, decode, embed_coords, gaussian_target
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.modules.types import Forwarded
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import Objective, ObjectiveError, ObjectiveOutput, build_objective
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.mask_counts import MaskCountsConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.specs.types import ManifestError, ModuleSpec
from coordexp.losses.vocab import score_hidden
from tests.unit.losses.synthetic import (
    Sample,
    collate,
    gt_sample,
    lay_out,
    mask_weights,
    random_head,
    random_states,
    rollout_sample,
    run_on,
)

TOKEN_CE = ModuleEntry("token_ce", TokenCEConfig())
GEO = ModuleEntry("bbox_geo", BboxGeoConfig())
COORD = ModuleEntry(
    "coord_reg", CoordRegConfig(soft_ce_weight=1.0, w1_weight=1.0, coord_gate_weight=1.0, text_gate_weight=1.0)
)
DIAGNOSTICS = (ModuleEntry("coord_diag", CoordDiagConfig()), ModuleEntry("mask_counts", MaskCountsConfig()))
WHOLE = Manifest((TOKEN_CE, GEO, COORD), DIAGNOSTICS)


def run(
    samples: list[Sample], provenance: Provenance, manifest: Manifest = WHOLE, broken: tuple[int, float] | None = None
) -> ObjectiveOutput:
    """One forward; `broken` puts a value into the hidden state of one position of the packed row."""
    objective = build_objective(manifest)
    context = objective.context(collate(samples), provenance)
    hidden = lay_out(random_states(samples))
    if broken is not None:
        hidden[0, broken[0], 0] = broken[1]
    return objective(context, score_hidden(hidden.requires_grad_(), random_head()), count_normalizers(context))


def losses(output: ObjectiveOutput) -> dict[str, float]:
    return {key: value for key, value in output.metrics().items() if key.startswith("loss/")}


@pytest.mark.invariant("LOSS-019")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_module_term_context_and_samples(value: float) -> None:
    samples = [gt_sample(0), gt_sample(1)]
    slot = samples[0].objects[0].positions[0]
    with pytest.raises(ObjectiveError) as error:
        run(samples, Provenance.STAGE1, broken=(slot - 1, value))
    said = str(error.value)
    assert "the loss is nan, from bbox_geo (smoothl1, ciou), coord_reg (coord_gate" in said
    assert "token_ce" not in said
    assert said.endswith("the gt context (stage1; 29 weighted tokens, 16 coord slots, 4 boxes) of samples gt-0, gt-1")


@pytest.mark.invariant("LOSS-019")
def test_a_state_that_nothing_reads_may_be_anything() -> None:
    """The last position of a segment predicts nothing; what stands there reaches no loss."""
    samples = [gt_sample(0), gt_sample(1)]
    plain = run(samples, Provenance.STAGE1)
    odd = run(samples, Provenance.STAGE1, broken=(len(samples[0].ids) - 1, float("nan")))
    assert torch.equal(odd.total, plain.total)


@pytest.mark.invariant("LOSS-019")
def test_long_batches_are_named_by_their_first_samples() -> None:
    samples = [gt_sample(seed, ()) for seed in range(11)]
    with pytest.raises(ObjectiveError, match=r"samples gt-0, .*gt-7 and 3 more$"):
        run(samples, Provenance.STAGE1, broken=(samples[0].prompt_length, float("nan")))


class Unknown(Exception):
    """An error of no family that arithmetic raises."""


class Raising:
    """A module that fails with an error of its own."""

    needs_coord_mass = grades_slots = False

    def __init__(self, config: object) -> None:
        self.config = config

    def plan(self, *_: object) -> None:
        raise Unknown("no plan")

    def measure(self, forwarded: Forwarded) -> dict[str, object]:
        raise Unknown("no measure")


def faulty(spec: ModuleSpec) -> ModuleSpec:
    """The module's registration with another implementation."""
    return replace(spec, build=Raising)


@pytest.mark.invariant("LOSS-019")
def test_an_error_of_any_kind_stops_an_objective_module_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.OBJECTIVE_MODULES, "coord_reg", faulty(registry.OBJECTIVE_MODULES["coord_reg"]))
    with pytest.raises(ObjectiveError, match=r"objective module coord_reg failed on the gt context .*: no plan"):
        run([gt_sample(0)], Provenance.STAGE1)


@pytest.mark.invariant("LOSS-020")
def test_an_error_of_any_kind_switches_a_diagnostic_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = run([gt_sample(0)], Provenance.STAGE1)
    monkeypatch.setitem(registry.DIAGNOSTIC_MODULES, "coord_diag", faulty(registry.DIAGNOSTIC_MODULES["coord_diag"]))
    objective = build_objective(WHOLE)
    with caplog.at_level(logging.WARNING):
        outputs = [run_on(objective, Provenance.STAGE1, collate([gt_sample(0)])) for _ in range(2)]
    assert len(caplog.records) == 1 and caplog.records[0].exc_info is not None
    assert all(not any(key.startswith("coord_diag") for key in output.metrics()) for output in outputs)
    assert losses(outputs[0]).keys() == losses(plain).keys()


@pytest.mark.invariant("LOSS-020")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_or_a_full_host_is_no_failure_of_a_diagnostic(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def interrupt(_: object, forwarded: Forwarded) -> dict[str, object]:
        raise kind

    monkeypatch.setattr(Raising, "measure", interrupt)
    monkeypatch.setitem(registry.DIAGNOSTIC_MODULES, "coord_diag", faulty(registry.DIAGNOSTIC_MODULES["coord_diag"]))
    with pytest.raises(kind):
        run([gt_sample(0)], Provenance.STAGE1)


@pytest.mark.invariant("LOSS-018")
@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (Manifest((ModuleEntry("token_cee", TokenCEConfig()),)), r"'token_cee' is no objective module; there are tok"),
        (Manifest((TOKEN_CE,), (ModuleEntry("bbox_geo", BboxGeoConfig()),)), r"'bbox_geo' is no diagnostics module"),
    ],
)
def test_a_manifest_with_an_unknown_module_is_refused_with_the_known_ones(manifest: Manifest, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        Objective(manifest)


@pytest.mark.invariant("LOSS-003")
def test_a_rollout_of_false_positives_alone_learns_to_close_and_end() -> None:
    """Two FP objects, nothing missed: the closure and the end token are supervised, no coordinate and no box is."""
    sample = rollout_sample(0, (TokenSubset.FP, TokenSubset.FP), 0)
    output = run([sample], Provenance.B)
    assert losses(output).keys() == {"loss/struct_ce", "loss/coord_reg", "loss/coord_reg/text_gate"}
    assert not any(key.startswith("coord_diag") for key in output.metrics())
    hidden = lay_out(random_states([sample])).requires_grad_()
    objective = build_objective(WHOLE)
    context = objective.context(collate([sample]), Provenance.B)
    objective(context, score_hidden(hidden, random_head()), count_normalizers(context)).total.backward()
    moved = torch.nonzero(hidden.grad[0].abs().sum(1)).flatten().tolist()
    assert moved == [len(sample.ids) - 3, len(sample.ids) - 2]


@pytest.mark.invariant("LOSS-001")
def test_a_desc_weight_of_zero_takes_desc_out_of_every_term() -> None:
    manifest = replace(WHOLE, objective=(ModuleEntry("token_ce", TokenCEConfig(desc_ce_weight=0.0)), GEO, COORD))
    sample = gt_sample(0)
    output = run([sample], Provenance.STAGE1, manifest)
    assert "loss/desc_ce" not in output.metrics() and torch.isfinite(output.total)
    context = build_objective(manifest).context(collate([sample]), Provenance.STAGE1)
    assert not context.of_type(TokenType.DESC).any()
    struct = sample.types.count(TokenType.STRUCT)
    assert count_normalizers(context)["text_gate"].item() == struct


@pytest.mark.invariant("LOSS-005")
def test_samples_without_objects_beside_samples_with_some_change_only_the_text_terms() -> None:
    alone = losses(run([gt_sample(0)], Provenance.STAGE1))
    both = losses(run([gt_sample(0), gt_sample(1, ())], Provenance.STAGE1))
    unmoved = [key for key in alone if key.startswith(("loss/geo", "loss/coord_reg/")) and "text" not in key]
    assert len(unmoved) == 6
    assert {key: both[key] for key in unmoved} == pytest.approx({key: alone[key] for key in unmoved}, rel=1e-12)
    assert both["loss/struct_ce"] != pytest.approx(alone["loss/struct_ce"])


@pytest.mark.invariant("LOSS-005")
def test_a_micro_batch_without_targets_adds_nothing() -> None:
    objective, head = build_objective(WHOLE), random_head()
    full, empty = collate([gt_sample(0)]), collate([gt_sample(1, ())])
    empty = replace(empty, labels=torch.full_like(empty.labels, -100))
    contexts = [objective.context(batch, Provenance.STAGE1) for batch in (full, empty)]
    whole = reduce(add, map(count_normalizers, contexts))
    states = [lay_out(random_states([gt_sample(0)])), lay_out(random_states([gt_sample(1, ())]))]
    parts = [objective(c, score_hidden(s, head), whole) for c, s in zip(contexts, states, strict=True)]
    assert parts[1].total.item() == 0.0
    assert losses(parts[0] + parts[1]) == losses(parts[0])


@pytest.mark.invariant("LOSS-004")
def test_views_tell_the_subset_of_every_weighted_token_and_slot() -> None:
    sample = rollout_sample(0)
    context = build_objective(WHOLE).context(collate([gt_free(sample), sample]), Provenance.B)
    assert [segment.sample_id for segment in context.segments] == ["empty", sample.name]
    kept = {TokenSubset.MATCHED, TokenSubset.FN, TokenSubset.CLOSURE}
    masks = {subset: context.of_subset(subset) for subset in TokenSubset}
    assert {subset for subset, mask in masks.items() if mask.any()} == kept
    assert torch.equal(sum(mask.long() for mask in masks.values()), torch.ones_like(context.predict))
    slots = {subset.name: int(context.slots_of(subset).sum()) for subset in TokenSubset}
    assert {name: count for name, count in slots.items() if count} == {"MATCHED": 8, "FN": 8}
    assert int(context.slots_of(TokenSubset.MATCHED, TokenSubset.FN).sum()) == context.slot_bins.shape[0]
    assert context.token_subsets.shape == context.token_types.shape == (context.n_positions,)


@pytest.mark.invariant("LOSS-004")
def test_a_slot_has_the_subset_of_its_own_token_not_of_the_one_before() -> None:
    sample = rollout_sample(0, (TokenSubset.MATCHED,), 1)
    sample.subsets[sample.objects[0].positions[0] - 1] = TokenSubset.FN
    context = build_objective(WHOLE).context(collate([sample]), Provenance.B)
    assert context.slots_of(TokenSubset.MATCHED).tolist() == [True] * 4 + [False] * 4


def gt_free(sample: Sample) -> Sample:
    """A rollout of the same kind without any object."""
    return replace(rollout_sample(9, (), 0), name="empty")


@pytest.mark.invariant("LOSS-013")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_degenerate_boxes_are_finite_in_half_precision(dtype: torch.dtype) -> None:
    corners = [0.0, 0.25, 1.0]
    raw = torch.cartesian_prod(*[torch.tensor(corners)] * 4).to(dtype).requires_grad_()
    target = canonicalize(raw.detach().flip(0))
    box = canonicalize(raw)
    total = complete_iou_loss(box, target) + smooth_l1(box, target)
    total.sum().backward()
    assert torch.isfinite(total).all() and torch.isfinite(raw.grad).all()
    assert (box[:, 2:] > box[:, :2]).all() and total.dtype == torch.float32
    wide = canonicalize(raw.detach().double())
    exact = complete_iou_loss(wide, target.double()) + smooth_l1(wide, target.double())
    torch.testing.assert_close(total.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.invariant("LOSS-011")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_bins_are_rounded_once_in_half_precision(dtype: torch.dtype) -> None:
    exact = torch.arange(1000, dtype=torch.float64) / 999
    assert torch.equal(bin_values(torch.zeros((), dtype=dtype)), exact.float().to(dtype))
    target = gaussian_target(torch.tensor([777]), 2.0, 4, dtype)
    assert target.dtype == dtype and int(target.argmax()) == 777 and int((target > 0).sum()) == 9
    assert decode(torch.eye(1000, dtype=dtype), "st").float().sub(exact.float()).abs().max() < 5e-3


@pytest.mark.invariant("LOSS-012")
@pytest.mark.parametrize("mode", ["soft", "st", "hard"])
def test_embeddings_of_a_bfloat16_model_take_a_float32_distribution(mode: str) -> None:
    rows = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    scores = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1)).requires_grad_()
    p = scores.softmax(-1)
    found = embed_coords(p, rows, mode)
    assert found.dtype == torch.bfloat16
    if mode == "soft":
        torch.testing.assert_close(found, (p.detach() @ rows.float()).bfloat16())
    else:
        assert torch.equal(found, rows[p.argmax(-1)])
    if mode != "hard":
        found.sum().backward()
        assert scores.grad.abs().sum() > 0


@pytest.mark.invariant("LOSS-008")
@pytest.mark.parametrize("provenance", [Provenance.STAGE1, Provenance.A2, Provenance.B])
def test_a_bfloat16_model_learns_under_the_whole_objective(provenance: Provenance) -> None:
    samples = [rollout_sample(0)] if provenance is Provenance.B else [gt_sample(0), gt_sample(1, (2, 4))]
    head = random_head(dtype=torch.bfloat16)
    objective = build_objective(WHOLE)
    context = objective.context(collate(samples), provenance)
    hidden = lay_out(random_states(samples)).bfloat16().requires_grad_()
    output = objective(context, score_hidden(hidden, head), count_normalizers(context))
    output.total.backward()
    fine = run(samples, provenance)
    assert float(output.total.detach()) == pytest.approx(float(fine.total.detach()), rel=2e-2)
    assert hidden.grad.dtype == torch.bfloat16 and torch.isfinite(hidden.grad).all()


@pytest.mark.invariant("LOSS-001")
def test_weights_of_zero_leave_a_context_without_text_tokens() -> None:
    from coordexp.losses.context import build_context

    off = mask_weights(desc_ce_weight=0.0, self_context_struct_ce_weight=0.0)
    context = build_context(collate([gt_sample(0)]), Provenance.A2, off)
    assert context.predict.numel() == 0 and context.slot_bins.numel() == 8
    assert torch.equal(context.rows[context.slot_rows], context.slot_predict)
