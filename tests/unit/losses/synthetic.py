"""Samples of random tokens with every subset and type, laid out packed or padded, and heads over a small vocabulary.

The coord ids are scattered over the vocabulary, so nothing that slices it can pass.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field, replace

import torch

from coordexp.encode.types import IGNORE_INDEX, ObjectSlots, TokenSubset, TokenType
from coordexp.forward.head import OutputHead
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import Objective, ObjectiveOutput
from coordexp.losses.registry import DIAGNOSTIC_MODULES, OBJECTIVE_MODULES
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.specs.types import MaskWeights, ModuleSpec
from coordexp.losses.vocab import score_hidden
from coordexp.packing.types import PackedBatch, Segment

VOCABULARY, HIDDEN = 1080, 6
COORD_IDS = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(3))[:1000]
TEXT_IDS = sorted(set(range(VOCABULARY)) - set(COORD_IDS.tolist()))
OTHER, STRUCT, DESC, COORD, EOS = TokenType


def mask_weights(coord_ce: float = 0.0, **token_ce: float) -> MaskWeights:
    """The mask table's weights: those of `token_ce` at their defaults but for the given ones."""
    return MaskWeights(**asdict(TokenCEConfig(**token_ce)), coord_ce_weight=coord_ce)


@dataclass
class Sample:
    """One sequence: token ids, types, subsets, and objects with positions inside it."""

    name: str
    ids: list[int] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    subsets: list[TokenSubset] = field(default_factory=list)
    objects: list[ObjectSlots] = field(default_factory=list)
    prompt_length: int = 0

    def text(self, rng: random.Random, kind: TokenType, subset: TokenSubset, count: int = 1) -> None:
        """Append `count` random text tokens."""
        self.ids += [rng.choice(TEXT_IDS) for _ in range(count)]
        self.types += [kind] * count
        self.subsets += [subset] * count

    def object(self, rng: random.Random, subset: TokenSubset, points: int = 2) -> None:
        """Append an object of `points` points: two make a box. Matched targets differ from the tokens that are read."""
        self.text(rng, STRUCT, subset)
        self.text(rng, DESC, subset, rng.randint(1, 3))
        self.text(rng, STRUCT, subset)
        read = [rng.randint(0, 999) for _ in range(2 * points)]
        target = read if subset is not TokenSubset.MATCHED else [rng.randint(0, 999) for _ in read]
        if points == 2:
            target = sorted(target[:2]) + sorted(target[2:])
            target = [target[0], target[2], target[1], target[3]]
            read = target if subset is not TokenSubset.MATCHED else read
        start = len(self.ids)
        self.ids += [int(COORD_IDS[k]) for k in read]
        self.types += [COORD] * len(read)
        self.subsets += [subset] * len(read)
        kind = "bbox_2d" if points == 2 else "poly"
        self.objects.append(ObjectSlots(kind, tuple(range(start, start + len(read))), tuple(target), subset))
        self.text(rng, STRUCT, subset)


def gt_sample(seed: int, objects: tuple[int, ...] = (2, 2), prompt: int = 3) -> Sample:
    """A ground-truth answer; `objects` gives the number of points of each (2 is a box)."""
    rng, sample = random.Random(seed), Sample(f"gt-{seed}", prompt_length=prompt)
    sample.text(rng, OTHER, TokenSubset.NONE, prompt)
    sample.text(rng, STRUCT, TokenSubset.GT, 2)
    for points in objects:
        sample.object(rng, TokenSubset.GT, points)
    sample.text(rng, STRUCT, TokenSubset.GT)
    sample.text(rng, EOS, TokenSubset.GT)
    return sample


PREFIX = (TokenSubset.MATCHED, TokenSubset.FP, TokenSubset.DROPPED, TokenSubset.MATCHED)


def rollout_sample(
    seed: int, prefix: tuple[TokenSubset, ...] = PREFIX, injected: int = 2, opening: TokenSubset = TokenSubset.OPENING
) -> Sample:
    """A rollout's prefix with objects of the given subsets, then `injected` missed objects, closure and end."""
    rng, sample = random.Random(seed), Sample(f"rollout-{seed}", prompt_length=3)
    sample.text(rng, OTHER, TokenSubset.NONE, 3)
    sample.text(rng, STRUCT, opening, 2)
    for subset in prefix:
        sample.object(rng, subset)
    for _ in range(injected):
        sample.object(rng, TokenSubset.FN)
    sample.text(rng, STRUCT, TokenSubset.CLOSURE)
    sample.text(rng, EOS, TokenSubset.CLOSURE)
    return sample


def collate(samples: list[Sample], packed: bool = True) -> PackedBatch:
    """One row with the samples side by side, or one padded row each."""
    width = sum(len(s.ids) for s in samples) if packed else max(len(s.ids) for s in samples)
    rows = 1 if packed else len(samples)
    ids, types, subsets = (torch.zeros(rows, width, dtype=torch.int64) for _ in range(3))
    segments, objects, start = [], [], 0
    for index, sample in enumerate(samples):
        row, begin = (0, start) if packed else (index, 0)
        end = begin + len(sample.ids)
        ids[row, begin:end] = torch.tensor(sample.ids)
        types[row, begin:end] = torch.tensor([int(t) for t in sample.types])
        subsets[row, begin:end] = torch.tensor([int(s) for s in sample.subsets])
        segments.append(Segment(sample.name, row, begin, end, sample.prompt_length))
        objects += [
            replace(item, positions=tuple(begin + p for p in item.positions), row=row) for item in sample.objects
        ]
        start += len(sample.ids)
    labels = torch.where(types == int(OTHER), IGNORE_INDEX, ids)
    return PackedBatch(
        input_ids=ids,
        labels=labels,
        token_types=types,
        subsets=subsets,
        mm_token_type_ids=torch.zeros_like(ids),
        position_ids=torch.zeros(4, rows, width, dtype=torch.int64),
        segments=tuple(segments),
        objects=tuple(objects),
    )


def random_states(samples: list[Sample], seed: int = 0, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Hidden states [L, H] of each sample, independent of how the samples are laid out."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(s.ids), HIDDEN, generator=generator, dtype=torch.float64).to(dtype) for s in samples]


def lay_out(states: list[torch.Tensor], packed: bool = True) -> torch.Tensor:
    """[B, T, H] in the layout of `collate`; padding gets 1e3, so that reading it shows."""
    if packed:
        return torch.cat(states)[None]
    return torch.nn.utils.rnn.pad_sequence(states, batch_first=True, padding_value=1e3)


def random_head(seed: int = 1, dtype: torch.dtype = torch.float64, *, offset: bool = False) -> OutputHead:
    """A head whose leaves require gradients."""
    generator = torch.Generator().manual_seed(seed)
    weight = (0.7 * torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)).to(dtype)
    shift = (0.3 * torch.randn(1000, HIDDEN, generator=generator, dtype=torch.float64)).to(dtype) if offset else None
    return OutputHead(weight.requires_grad_(), COORD_IDS, None if shift is None else shift.requires_grad_())


def weigh_terms(spec: ModuleSpec, weight: float = 1.0) -> ModuleEntry:
    """A module with every one of its terms at `weight`, its other keys at their defaults."""
    weights = {term.weight: weight for component in spec.components for term in component.terms}
    return ModuleEntry(spec.name, spec.config(**weights))


def everything_on() -> Manifest:
    """Every registered module with every term."""
    return Manifest(
        tuple(weigh_terms(spec) for spec in OBJECTIVE_MODULES.values()),
        tuple(weigh_terms(spec) for spec in DIAGNOSTIC_MODULES.values()),
    )


def run_on(objective: Objective, provenance: Provenance, batch: PackedBatch | None = None) -> ObjectiveOutput:
    """One forward of `objective` on random hidden states of a batch that suits `provenance`, or of `batch`."""
    samples = [rollout_sample(0)] if provenance is Provenance.B else [gt_sample(0), gt_sample(1)]
    given = collate(samples) if batch is None else batch
    context = objective.context(given, provenance)
    hidden = torch.randn(
        *given.input_ids.shape, HIDDEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return objective(context, score_hidden(hidden.requires_grad_(), random_head()), count_normalizers(context))
