"""The objective against an independent straight-line reference: totals, components, gradients; packed and padded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch

from coordexp.encode.types import TokenSubset
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.losses.objective import ObjectiveOutput, build_objective
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.vocab import score_hidden
from tests.unit.losses.reference import Knobs, Reference
from tests.unit.losses.synthetic import (
    Sample,
    collate,
    gt_sample,
    lay_out,
    random_head,
    random_states,
    rollout_sample,
)

TOKEN_CE = {
    "desc_ce_weight": 1.7,
    "self_context_struct_ce_weight": 0.1,
    "rollout_fn_desc_weight": 0.6,
    "rollout_matched_prefix_struct_weight": 0.4,
    "rollout_drop_invalid_struct_ce_multiplier": 2.5,
}
GEO = {"smoothl1_weight": 1.5, "ciou_weight": 0.8}
COORD = {
    "coord_ce_weight": 0.3,
    "coord_el1_weight": 0.9,
    "coord_ehuber_weight": 40.0,
    "coord_huber_delta": 0.002,
    "coord_entropy_weight": -0.05,
    "coord_gate_weight": 0.7,
    "text_gate_weight": 0.2,
    "soft_ce_weight": 1.1,
    "w1_weight": 1.3,
    "self_context_soft_ce_weight": 0.05,
    "temperature": 0.8,
    "target_sigma": 2.0,
    "target_truncate": 5,
}
WEIGHTS = {"token_ce": 1.2, "bbox_geo": 0.7, "coord_reg": 0.9}
FORWARDS = {"stage 1": ("stage1",), "channel A": ("A1", "A2"), "channel B": ("B",)}


@dataclass
class Step:
    """The samples of one optimizer step, and which forwards it makes."""

    samples: list[Sample]
    forwards: tuple[str, ...]
    dtype: torch.dtype
    decode: str


def make_step(trainer: str, dtype: torch.dtype) -> Step:
    if trainer == "channel B":
        samples = [
            rollout_sample(0),
            rollout_sample(1, (), 2, TokenSubset.OPENING_INJECTED),
            rollout_sample(2, (TokenSubset.MATCHED,), 1),
        ]
    else:
        samples = [gt_sample(0), gt_sample(1, (2, 4, 2)), gt_sample(2, ())]
    return Step(samples, FORWARDS[trainer], dtype, "st" if dtype is torch.float32 else "exp")


def run_objective(step: Step, packed: bool) -> tuple[ObjectiveOutput, list[torch.Tensor]]:
    manifest = Manifest(
        (
            ModuleEntry("token_ce", TokenCEConfig(**TOKEN_CE), weight=WEIGHTS["token_ce"]),
            ModuleEntry("bbox_geo", BboxGeoConfig(**GEO), weight=WEIGHTS["bbox_geo"]),
            ModuleEntry("coord_reg", CoordRegConfig(**COORD), weight=WEIGHTS["coord_reg"]),
        ),
        (ModuleEntry("coord_diag", CoordDiagConfig()),),
        "stage2_rollout_aligned",
        step.decode,
    )
    objective, batch = build_objective(manifest), collate(step.samples, packed)
    contexts = [objective.context(batch, Provenance(name)) for name in step.forwards]
    normalizers = Normalizers(sum(count_normalizers(context).values for context in contexts))
    head = random_head(dtype=step.dtype, offset=True)
    leaves = [head.weight, head.coord_offset]
    output = None
    for index, context in enumerate(contexts):
        states = [s.requires_grad_() for s in random_states(step.samples, seed=index, dtype=step.dtype)]
        leaves += states
        part = objective(context, score_hidden(lay_out(states, packed), head), normalizers)
        output = part if output is None else output + part
    output.total.backward()
    return output, [leaf.grad for leaf in leaves]


@lru_cache(maxsize=1)
def run_reference(trainer: str, dtype: torch.dtype) -> tuple[Reference, torch.Tensor, list[torch.Tensor]]:
    """In float64, whatever the precision of the subject; packed and padded are compared with the same one."""
    step = make_step(trainer, dtype)
    head = random_head(dtype=torch.float64, offset=True)
    head = type(head)(*(x.detach().to(step.dtype).double().requires_grad_() if x.is_floating_point() else x
                        for x in (head.weight, head.coord_ids, head.coord_offset)))  # fmt: skip
    reference = Reference(Knobs(TOKEN_CE, GEO, COORD, WEIGHTS, step.decode), head)
    leaves = [head.weight, head.coord_offset]
    for index, name in enumerate(step.forwards):
        states = [s.double().requires_grad_() for s in random_states(step.samples, seed=index, dtype=step.dtype)]
        leaves += states
        for sample, hidden in zip(step.samples, states, strict=True):
            reference.add(sample, hidden, name)
    total = reference.total()
    total.backward()
    return reference, total.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.invariant("LOSS-024")
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("trainer", list(FORWARDS))
def test_objective_equals_the_written_out_reference(trainer: str, dtype: torch.dtype, packed: bool) -> None:
    output, gradients = run_objective(make_step(trainer, dtype), packed)
    reference, total, expected = run_reference(trainer, dtype)
    assert float(output.total.detach()) == pytest.approx(float(total), rel=1e-6)
    metrics = {key.removeprefix("loss/"): value for key, value in output.metrics().items() if key.startswith("loss/")}
    components = {key: float(value.detach()) for key, value in reference.components().items()}
    assert metrics == pytest.approx(components, rel=1e-6, abs=1e-6)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
