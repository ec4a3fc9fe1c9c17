"""The executor: order, channels, weights, failures, diagnostics, and batches without anything to learn."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
import torch

from coordexp.encode.types import IGNORE_INDEX, TokenType
from coordexp.losses import registry
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.modules.types import Coefficients, Forwarded, Gauge, ModuleOutput
from coordexp.losses.normalizers import Normalizers, TermSum, count_normalizers
from coordexp.losses.objective import (
    ObjectiveError,
    ObjectiveOutput,
    build_objective,
)
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.mask_counts import MaskCountsConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.vocab import score_hidden
from coordexp.packing.types import PackedBatch
from tests.unit.losses.synthetic import (
    COORD_IDS,
    HIDDEN,
    collate,
    gt_sample,
    lay_out,
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
DIAG = ModuleEntry("coord_diag", CoordDiagConfig())
COUNTS = ModuleEntry("mask_counts", MaskCountsConfig())


def run(
    manifest: Manifest, provenance: Provenance = Provenance.STAGE1, batch: PackedBatch | None = None
) -> ObjectiveOutput:
    return run_on(build_objective(manifest), provenance, batch)


def loss_keys(output: ObjectiveOutput) -> set[str]:
    return {key.split("/")[1] for key in output.metrics() if key.startswith("loss/")}


@pytest.mark.invariant("LOSS-019")
def test_total_is_the_weighted_sum_of_the_modules() -> None:
    single = [float(run(Manifest((entry,))).total.detach()) for entry in (TOKEN_CE, GEO, COORD)]
    weighted = (replace(TOKEN_CE, weight=0.5), replace(GEO, weight=3.0), replace(COORD, weight=0.0))
    total = float(run(Manifest(weighted)).total.detach())
    assert total == pytest.approx(0.5 * single[0] + 3.0 * single[1], rel=1e-12)
    assert all(value > 0 for value in single)


@pytest.mark.invariant("LOSS-019")
@pytest.mark.parametrize(
    ("channels", "provenance", "runs"),
    [
        (("A",), Provenance.A2, True),
        (("A",), Provenance.B, False),
        (("B",), Provenance.A2, False),
        (("B",), Provenance.B, True),
        (("B",), Provenance.STAGE1, True),
    ],
)
def test_modules_run_in_their_channels(channels: tuple[str, ...], provenance: Provenance, runs: bool) -> None:
    output = run(Manifest((TOKEN_CE, replace(GEO, channels=channels)), (replace(DIAG, channels=channels),)), provenance)
    assert ("geo" in loss_keys(output)) is runs
    assert any(key.startswith("coord_diag") for key in output.metrics()) is runs


@pytest.mark.invariant("LOSS-019")
def test_a_disabled_module_is_as_good_as_absent() -> None:
    off = run(Manifest((TOKEN_CE, replace(COORD, enabled=False)), (replace(DIAG, enabled=False),)))
    assert float(off.total.detach()) == float(run(Manifest((TOKEN_CE,))).total.detach())
    assert loss_keys(off) == {"struct_ce", "desc_ce"}
    assert not off.gauges


@pytest.mark.invariant("LOSS-019")
def test_the_anchor_takes_no_coordinate_or_box_loss() -> None:
    assert loss_keys(run(Manifest((TOKEN_CE, GEO, COORD)), Provenance.A1)) == {"struct_ce", "desc_ce"}
    assert loss_keys(run(Manifest((TOKEN_CE, GEO, COORD)), Provenance.A2)) == {"struct_ce", "coord_reg", "geo"}
    assert loss_keys(run(Manifest((TOKEN_CE, GEO, COORD)), Provenance.B)) == {
        "struct_ce",
        "desc_ce",
        "coord_reg",
        "geo",
    }


@dataclass
class Probe:
    """A module that writes down what happens to it, and fails when told to."""

    config: object
    name: str
    calls: list[str]
    fails: bool = False
    needs_coord_mass: bool = False
    grades_slots: bool = False

    def plan(self, coefficients: Coefficients, context: object, normalizers: Normalizers, weight: float) -> None:
        self.calls.append(f"plan {self.name}")

    def compute(self, forwarded: Forwarded, normalizers: Normalizers, weight: float) -> ModuleOutput:
        self.calls.append(f"compute {self.name} {weight:g}")
        if self.fails:
            raise ZeroDivisionError("no boxes today")
        return ModuleOutput(forwarded.p.sum() * 0, {"w1": TermSum(forwarded.p.sum(), forwarded.p.sum())})

    def measure(self, forwarded: Forwarded) -> Mapping[str, Gauge]:
        self.calls.append(f"measure {self.name}")
        if self.fails:
            raise KeyError("missing")
        return {f"{self.name}/value": Gauge(torch.tensor(2.0), 1)}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Probe]]:
    """Registered in place of the real modules: a fault inside a module cannot be produced through its inputs."""
    calls: list[str] = []
    made: dict[str, Probe] = {}

    def maker(name: str) -> object:
        def make(config: object) -> Probe:
            return made.setdefault(name, Probe(config, name, calls))

        return make

    for table in (registry.OBJECTIVE_MODULES, registry.DIAGNOSTIC_MODULES):
        for name in table:
            monkeypatch.setitem(table, name, replace(table[name], build=maker(name)))
            made[name] = Probe(None, name, calls)
    yield made


@pytest.mark.invariant("LOSS-019")
def test_modules_run_in_the_order_of_the_manifest(probes: dict[str, Probe]) -> None:
    run(Manifest((COORD, TOKEN_CE, GEO), (COUNTS, DIAG)))
    assert probes["token_ce"].calls == [
        "plan coord_reg", "plan token_ce", "plan bbox_geo", "compute coord_reg 1", "compute token_ce 1",
        "compute bbox_geo 1", "measure mask_counts", "measure coord_diag",
    ]  # fmt: skip


@pytest.mark.invariant("LOSS-019")
def test_a_failing_objective_module_stops_with_its_context(probes: dict[str, Probe]) -> None:
    probes["bbox_geo"].fails = True
    with pytest.raises(
        ObjectiveError, match=r"bbox_geo failed on the rollout context \(B; .* boxes\) of samples rollout-0: no boxes"
    ) as e:
        run(Manifest((TOKEN_CE, GEO)), Provenance.B)
    assert isinstance(e.value.__cause__, ZeroDivisionError)


@pytest.mark.invariant("LOSS-020")
def test_a_failing_diagnostic_warns_once_and_is_off(probes: dict[str, Probe], caplog: pytest.LogCaptureFixture) -> None:
    probes["coord_diag"].fails = True
    objective = build_objective(Manifest((TOKEN_CE,), (DIAG, COUNTS)))
    with caplog.at_level(logging.WARNING):
        outputs = [run_on(objective, Provenance.STAGE1) for _ in range(3)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search(r"coord_diag failed on the gt context \(stage1; .*of samples gt-.* off from now on", caplog.text)
    assert probes["coord_diag"].calls.count("measure coord_diag") == 1
    assert all(output.gauges.keys() == {"mask_counts/value"} for output in outputs)


@pytest.mark.invariant("LOSS-020")
@pytest.mark.parametrize("diagnostics", [(DIAG,), (COUNTS,), (DIAG, COUNTS)])
def test_diagnostics_change_no_loss_and_no_gradient(diagnostics: tuple[ModuleEntry, ...]) -> None:
    objective = (TOKEN_CE, GEO, replace(COORD, config=CoordRegConfig(w1_weight=1.0)))
    results = []
    for manifest in (Manifest(objective), Manifest(objective, diagnostics)):
        samples, head = [gt_sample(0), gt_sample(1)], random_head()
        built = build_objective(manifest)
        context = built.context(collate(samples), Provenance.STAGE1)
        output = built(context, score_hidden(lay_out(random_states(samples)), head), count_normalizers(context))
        output.total.backward()
        results.append((output, head.weight.grad))
    assert torch.equal(results[0][0].total, results[1][0].total)
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][0].gauges and not any(gauge.total.requires_grad for gauge in results[1][0].gauges.values())


@pytest.mark.invariant("LOSS-020")
def test_mask_counts_are_shares_of_the_batch() -> None:
    batch = collate([gt_sample(0)])
    metrics = run(Manifest((TOKEN_CE,), (COUNTS,)), batch=batch).metrics()
    kinds = batch.token_types[0]
    assert metrics["mask_counts/stage1/coord_frac"] == pytest.approx(float((kinds == TokenType.COORD).double().mean()))
    assert metrics["mask_counts/stage1/text_frac"] == pytest.approx(
        float(((kinds != TokenType.COORD) & (kinds != TokenType.OTHER)).double().mean())
    )


@pytest.mark.invariant("LOSS-021")
@pytest.mark.parametrize("gate", [0.0, 1.0])
@pytest.mark.parametrize("provenance", [Provenance.A1, Provenance.A2, Provenance.B])
def test_coord_diagnostics_equal_their_definitions(provenance: Provenance, gate: float) -> None:
    sample = rollout_sample(0) if provenance is Provenance.B else gt_sample(0)
    objective = build_objective(
        Manifest((TOKEN_CE, ModuleEntry("coord_reg", CoordRegConfig(coord_gate_weight=gate))), (DIAG,))
    )
    context, states, head = objective.context(collate([sample]), provenance), random_states([sample]), random_head()
    metrics = objective(context, score_hidden(lay_out(states), head), count_normalizers(context)).metrics()
    kept = [item for item in sample.objects if item.subset.name in ("GT", "MATCHED", "FN")]
    where = [(p, k) for item in kept for p, k in zip(item.positions, item.bins, strict=True)]
    scores = torch.stack([head.weight @ states[0][p - 1] for p, _ in where]).detach()
    coord, bins = scores[:, COORD_IDS], torch.tensor([k for _, k in where])
    p = coord.softmax(-1)
    at = torch.arange(len(where))
    others = coord.clone()
    others[at, bins] = -torch.inf
    error = (999 * (p @ (torch.arange(1000, dtype=p.dtype) / 999)) - bins).abs()
    expected = {
        "acc_top5": float((coord.topk(5).indices == bins[:, None]).any(1).double().mean()),
        "p_gt_mean": float(p[at, bins].mean()),
        "margin_mean": float((coord[at, bins] - others.amax(1)).mean()),
        "expected_bin_mae": float(error.mean()),
        "expected_bin_abs_err_p90": float(error.quantile(0.9)),
        "coord_vocab_mass_mean": float(scores.softmax(-1)[:, COORD_IDS].sum(1).mean()),
    }
    found = {key.removeprefix(f"coord_diag/{provenance}/"): v for key, v in metrics.items() if "coord_diag" in key}
    assert found == pytest.approx(expected)


@pytest.mark.invariant("LOSS-021")
def test_top5_counts_the_target_among_the_five_best() -> None:
    sample = gt_sample(0, (2,))
    head = random_head()
    item, weight = sample.objects[0], head.weight.detach().clone()
    weight[COORD_IDS] = 0.0
    k = item.bins[0]
    weight[COORD_IDS[[(k + d) % 1000 for d in range(1, 5)]], 0] = 5.0
    weight[COORD_IDS[k], 0] = 1.0
    hidden = torch.zeros(len(sample.ids), HIDDEN, dtype=torch.float64)
    hidden[item.positions[0] - 1, 0] = 1.0
    objective = build_objective(Manifest((TOKEN_CE,), (DIAG,)))
    context = objective.context(collate([sample]), Provenance.STAGE1)
    output = objective(context, score_hidden(hidden[None], replace(head, weight=weight)), count_normalizers(context))
    # The first slot's target is fifth of 1000; the other three are tied with every bin, none of which is above them.
    assert output.metrics()["coord_diag/stage1/acc_top5"] == 1.0
    assert output.metrics()["coord_diag/stage1/margin_mean"] == -1.0
    weight[COORD_IDS[k], 0] = 9.0
    leading = objective(context, score_hidden(hidden[None], replace(head, weight=weight)), count_normalizers(context))
    assert leading.metrics()["coord_diag/stage1/margin_mean"] == 1.0


@pytest.mark.invariant("LOSS-021")
def test_without_slots_diagnostics_are_absent_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    assert not run(Manifest((TOKEN_CE,), (DIAG,)), batch=collate([gt_sample(0, ())])).gauges
    assert not caplog.records


def all_masked() -> PackedBatch:
    batch = collate([gt_sample(0, ())])
    return replace(batch, labels=torch.full_like(batch.labels, IGNORE_INDEX))


def one_token() -> PackedBatch:
    sample = gt_sample(0, (), prompt=0)
    sample.ids, sample.types, sample.subsets = sample.ids[:1], sample.types[:1], sample.subsets[:1]
    return collate([sample])


def without_segments() -> PackedBatch:
    return replace(collate([gt_sample(0)]), segments=(), objects=())


@pytest.mark.invariant("LOSS-023")
@pytest.mark.parametrize("decode", ["exp", "st"])
@pytest.mark.parametrize(
    "batch", [all_masked(), one_token(), without_segments()], ids=["all masked", "one token", "empty"]
)
def test_nothing_to_learn_is_a_zero_with_a_gradient(batch: PackedBatch, decode: str) -> None:
    objective = build_objective(Manifest((TOKEN_CE, GEO, COORD), (DIAG, COUNTS), "stage2_rollout_aligned", decode))
    context, head = objective.context(batch, Provenance.STAGE1), random_head(offset=True)
    hidden = torch.randn(*batch.input_ids.shape, HIDDEN, dtype=torch.float64).requires_grad_()
    output = objective(context, score_hidden(hidden, head), count_normalizers(context))
    assert output.total.item() == 0.0
    output.total.backward()
    for leaf in (hidden, head.weight, head.coord_offset):
        assert leaf.grad is not None and not leaf.grad.any()
    assert not loss_keys(output)


@pytest.mark.invariant("LOSS-023")
def test_text_without_objects_is_finite() -> None:
    output = run(Manifest((TOKEN_CE, GEO, COORD), (DIAG,)), batch=collate([gt_sample(0, ())]))
    output.total.backward()
    assert torch.isfinite(output.total)


@pytest.mark.invariant("LOSS-023")
def test_hidden_states_of_another_batch_are_refused() -> None:
    objective = build_objective(Manifest((TOKEN_CE,)))
    context = objective.context(collate([gt_sample(0)]), Provenance.STAGE1)
    with pytest.raises(ValueError, match="hidden states for 3 positions, but the context was built from"):
        objective(context, score_hidden(torch.zeros(1, 3, HIDDEN), random_head()), count_normalizers(context))
