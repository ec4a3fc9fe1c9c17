"""A step of Channel A on the small Qwen3-VL, and an oracle of its loop that shares none of the code under test."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from coordexp.encode.types import EncodedSample, TokenType
from coordexp.forward.head import install_vocabulary_head
from coordexp.forward.self_context import SelfContext
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.losses.objective import Objective, ObjectiveOutput, build_objective
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import build_rope_index
from coordexp.training.loop import ForwardRunner
from coordexp.training.types import Placement, PlannedForward
from tests.plugins.tiny_qwen import COORD_IDS, PAD, random_sample, tiny_config

if TYPE_CHECKING:
    from coordexp.packing.types import PackedBatch

ROPE = build_rope_index(tiny_config())
WEIGHTS: dict[str, dict[str, float]] = {
    "token_ce": {"desc_ce_weight": 1.3, "self_context_struct_ce_weight": 0.4},
    "bbox_geo": {"smoothl1_weight": 2.0, "ciou_weight": 0.5},
    "coord_reg": {
        "soft_ce_weight": 0.3,
        "self_context_soft_ce_weight": 0.6,
        "w1_weight": 0.7,
        "coord_gate_weight": 0.9,
        "text_gate_weight": 0.4,
        "coord_ce_weight": 0.2,
        "coord_el1_weight": 0.8,
        "coord_ehuber_weight": 1.1,
        "coord_entropy_weight": 0.05,
        "temperature": 1.7,
        "target_sigma": 8.0,
    },
}
"""Every weight that Channel A knows, none its default."""
CONFIGS = {"token_ce": TokenCEConfig, "bbox_geo": BboxGeoConfig, "coord_reg": CoordRegConfig}


def objective_of(weights: dict[str, dict[str, float]], mode: Any) -> Objective:
    entries = tuple(ModuleEntry(name, CONFIGS[name](**config)) for name, config in weights.items())
    diagnostics = (ModuleEntry("coord_diag", CoordDiagConfig()),)
    return build_objective(Manifest(entries, diagnostics, "stage2_two_channel", "exp", mode))


def samples() -> list[EncodedSample]:
    """Two of two images or boxes and more, their first two words of the answer being a name's."""
    made = [random_sample(0, ((4, 6),), words=6, boxes=2), random_sample(1, ((4, 4), (6, 4)), words=5, boxes=1)]
    named = []
    for sample in made:
        types = sample.token_types.clone()
        types[sample.prompt_length : sample.prompt_length + 2] = int(TokenType.DESC)
        named.append(dataclasses.replace(sample, token_types=types))
    return named


@dataclass(frozen=True)
class Pixels:
    """In an encoder's place: samples that have their pixels already."""

    def pixels(self, found: tuple[EncodedSample, ...], images: Any, device: torch.device) -> torch.Tensor:
        return torch.cat([sample.pixel_values for sample in found if sample.pixel_values is not None]).to(device)


@dataclass(frozen=True)
class Way:
    """How the loop runs: its forwards, what a slot is fed, and what is detached."""

    iterations: int = 2
    mode: Any = "st"
    grads: Any = "unroll"


@dataclass
class Step:
    """What Channel A makes of samples in one forward, in some way and under an objective of some weights."""

    model: Any
    way: Way = Way()
    weights: dict[str, dict[str, float]] = field(default_factory=lambda: WEIGHTS)
    padded: bool = False
    found: list[EncodedSample] = field(default_factory=samples)

    def __post_init__(self) -> None:
        install_vocabulary_head(self.model)
        self.objective = objective_of(self.weights, self.way.mode)

    @property
    def batch(self) -> PackedBatch:
        return collate_padded(self.found, ROPE, PAD) if self.padded else collate_packed(self.found, ROPE)

    @property
    def planned(self) -> PlannedForward:
        batch = self.batch
        anchor, last = (self.objective.context(batch, provenance) for provenance in (Provenance.A1, Provenance.A2))
        return PlannedForward(tuple(self.found), (None,) * len(self.found), batch, anchor, 1, last)  # type: ignore

    @property
    def normalizers(self) -> Normalizers:
        anchor, last = (count_normalizers(context) for context in self.planned.contexts)
        return anchor + last

    def run(self) -> ObjectiveOutput:
        settings = SelfContext(self.way.iterations, self.way.grads)
        runner = ForwardRunner(Pixels(), self.objective, COORD_IDS, Placement(torch.device("cpu")), settings)  # type: ignore
        return runner(self.model, self.planned, self.normalizers)

    def learn(self) -> tuple[float, dict[str, torch.Tensor]]:
        """The total and its gradients."""
        self.model.zero_grad(set_to_none=True)
        output = self.run()
        output.total.backward()
        grads = {n: p.grad.detach().clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return float(output.total.detach()), grads

    def slots(self) -> torch.Tensor:
        """Flat positions of the coord tokens."""
        return torch.nonzero(self.batch.token_types.flatten() == TokenType.COORD).flatten()


def seen_by(model: Any, module: Any, work: Any) -> list[dict[str, Any]]:
    """The keyword arguments of every call of `module` while `work` runs, positional ones under `args`."""
    calls: list[dict[str, Any]] = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        calls.append({**kwargs, "args": args})

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        work()
    finally:
        handle.remove()
    return calls


def fed(table: torch.Tensor, logits: torch.Tensor, mode: str, temperature: float) -> torch.Tensor:
    """Rows that slots with these coord logits are fed, by the words of the contract."""
    if mode == "soft":
        p = torch.exp(logits / temperature) / torch.exp(logits / temperature).sum(-1, keepdim=True)
        return torch.einsum("ck,kh->ch", p, table)
    return torch.stack([table[int(row.argmax())] for row in logits])


def coord_embeddings(model: Any) -> torch.Tensor:
    """E_k from weights and offsets, without calling the module."""
    rows = model.get_input_embeddings().weight[torch.tensor(COORD_IDS)]
    adapter = getattr(model, "coord_offset", None)
    return rows if adapter is None else rows + adapter.embed_offset


def coord_rows(model: Any) -> torch.Tensor:
    """What coord ids are scored with."""
    rows = model.get_output_embeddings().weight[torch.tensor(COORD_IDS)]
    adapter = getattr(model, "coord_offset", None)
    return rows if adapter is None else rows + adapter.head_offset


def by_hand(step: Step) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Last hidden states [B, T, H] and input embeddings of every forward of the loop, from the plain model."""
    model, batch, slots = step.model, step.batch, step.slots()
    inputs = {key: value for key, value in batch.model_inputs().items() if key != "input_ids"}
    embeddings = model.get_input_embeddings()(batch.input_ids)
    temperature = step.weights["coord_reg"]["temperature"]
    passes = []
    for _ in range(step.way.iterations):
        hidden = model.model(inputs_embeds=embeddings, use_cache=False, **inputs).last_hidden_state
        passes.append((hidden, embeddings))
        logits = F.linear(hidden.flatten(0, 1)[slots - 1], coord_rows(model))
        rows = fed(coord_embeddings(model), logits, step.way.mode, temperature)
        embeddings = embeddings.clone()
        embeddings.flatten(0, 1)[slots] = rows.to(embeddings.dtype)
    return passes
