"""The whole objective written out from its formulas: loops, one full softmax per position.

It shares no code with the runtime and is only as fast as tests need.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch

from coordexp.encode.types import TokenSubset, TokenType
from coordexp.forward.head import OutputHead
from tests.unit.losses.synthetic import Sample


@dataclass
class Knobs:
    """Module configs by contract name, and module weights."""

    token_ce: dict[str, float]
    bbox_geo: dict[str, float]
    coord_reg: dict[str, Any]
    module_weights: dict[str, float] = field(
        default_factory=lambda: {"token_ce": 1.0, "bbox_geo": 1.0, "coord_reg": 1.0}
    )
    decode: str = "exp"


def ce_weight(context: str, subset: TokenSubset, kind: TokenType, knobs: Knobs) -> float:
    """The mask table, cell by cell."""
    name, ce = (subset.name, kind.name), knobs.token_ce
    if context == "gt":
        return {
            "STRUCT": 1.0, "EOS": 1.0, "DESC": ce["desc_ce_weight"], "COORD": knobs.coord_reg["coord_ce_weight"]
        }[kind.name]  # fmt: skip
    if context == "self_context":
        return ce["self_context_struct_ce_weight"] if kind.name in ("STRUCT", "EOS") else 0.0
    if name == ("MATCHED", "STRUCT"):
        return ce["rollout_matched_prefix_struct_weight"]
    if name == ("FN", "DESC"):
        return ce["rollout_fn_desc_weight"]
    return float(name in {("FN", "STRUCT"), ("OPENING_INJECTED", "STRUCT"), ("CLOSURE", "STRUCT"), ("CLOSURE", "EOS")})


class Reference:
    """Collects (weight, value) pairs for each term over all forwards of a step, then divides."""

    def __init__(self, knobs: Knobs, head: OutputHead) -> None:
        self.knobs, self.ids = knobs, head.coord_ids
        weight = head.weight
        if head.coord_offset is not None:
            weight = weight.index_add(0, self.ids, head.coord_offset)
        self.weight = weight
        self.pairs: dict[str, list[tuple[float, torch.Tensor]]] = defaultdict(list)
        self.factors: dict[str, float] = {}

    def add(self, sample: Sample, hidden: torch.Tensor, provenance: str) -> None:
        """One sample of one forward, `hidden` [L, H]."""
        context = {"stage1": "gt", "A1": "gt", "A2": "self_context", "B": "rollout"}[provenance]
        dropped = TokenSubset.DROPPED in sample.subsets
        multiplier = self.knobs.token_ce["rollout_drop_invalid_struct_ce_multiplier"] if dropped else 1.0
        for p in range(max(1, sample.prompt_length), len(sample.ids)):
            kind = sample.types[p]
            weight = ce_weight(context, sample.subsets[p], kind, self.knobs)
            weight *= multiplier if kind is TokenType.STRUCT else 1.0
            if weight == 0:
                continue
            p_all = torch.softmax(self.weight @ hidden[p - 1], 0)
            group = {"STRUCT": "struct_ce", "EOS": "struct_ce", "DESC": "desc_ce", "COORD": "coord_token_ce"}[kind.name]
            self.pairs[group].append((weight, -torch.log(p_all[sample.ids[p]])))
            if group != "coord_token_ce" and kind is not TokenType.EOS and provenance != "A1":
                self.pairs["text_gate"].append((1.0, -torch.log(1 - p_all[self.ids].sum() + 1e-6)))
        if provenance != "A1":
            for item in sample.objects:
                if item.subset in (TokenSubset.GT, TokenSubset.MATCHED, TokenSubset.FN):
                    self._add_object(item, hidden, context)

    def _add_object(self, item: Any, hidden: torch.Tensor, context: str) -> None:
        config, decoded = self.knobs.coord_reg, []
        values = torch.tensor([k / 999 for k in range(1000)], dtype=hidden.dtype)
        for position, target in zip(item.positions, item.bins, strict=True):
            scores = self.weight @ hidden[position - 1]
            mass = torch.softmax(scores, 0)[self.ids].sum()
            p = torch.softmax(scores[self.ids] / config["temperature"], 0)
            decoded.append(self._decode(p, values))
            self.pairs["coord_gate"].append((1.0, -torch.log(mass + 1e-6)))
            for name, value in self._terms(p, target, values).items():
                self.pairs[name].append((1.0, value))
            if context != "gt":
                self.pairs["coord_ce"].append((1.0, -torch.log(p[target])))
        soft_ce = "self_context_soft_ce_weight" if context == "self_context" else "soft_ce_weight"
        self.factors["soft_ce"] = config[soft_ce]
        if item.kind == "bbox_2d":
            box, target_box = ordered(torch.stack(decoded)), ordered(values[list(item.bins)])
            self.pairs["smoothl1"].append(
                (1.0, sum((0.5 * (a - b) ** 2 for a, b in zip(box, target_box, strict=True))) / 4)
            )
            self.pairs["ciou"].append((1.0, ciou(box, target_box)))

    def _decode(self, p: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        soft = (p * values).sum()
        return soft if self.knobs.decode == "exp" else soft + (values[int(p.argmax())] - soft).detach()

    def _terms(self, p: torch.Tensor, target: int, values: torch.Tensor) -> dict[str, torch.Tensor]:
        config = self.knobs.coord_reg
        radius = math.inf if config["target_truncate"] is None else config["target_truncate"]
        mass = [
            math.exp(-((k - target) ** 2) / (2 * config["target_sigma"] ** 2)) if abs(k - target) <= radius else 0.0
            for k in range(1000)
        ]
        q = torch.tensor([m / sum(mass) for m in mass], dtype=p.dtype)
        distance = (values - target / 999).abs()
        delta = config["coord_huber_delta"]
        huber = torch.where(distance <= delta, distance**2 / 2, delta * (distance - delta / 2))
        return {
            "soft_ce": -(q * torch.log(p)).sum(),
            "w1": (torch.cumsum(p, 0) - torch.cumsum(q, 0)).abs().sum() / 999,
            "entropy": -(p * torch.log(p)).sum(),
            "expected_l1": (p * distance).sum(),
            "expected_huber": (p * huber).sum(),
        }

    def mean(self, *groups: str) -> torch.Tensor:
        """Σ w·value / Σ w over the given groups, 0 when they are empty."""
        pairs = [pair for group in groups for pair in self.pairs[group]]
        if not pairs:
            return torch.zeros((), dtype=self.weight.dtype)
        return sum(w * value for w, value in pairs) / sum(w for w, _ in pairs)

    def components(self) -> dict[str, torch.Tensor]:
        """The logged components."""
        config, geo = self.knobs.coord_reg, self.knobs.bbox_geo
        factors = {
            "soft_ce": 0.0, "w1": config["w1_weight"], "entropy": config["coord_entropy_weight"],
            "coord_gate": config["coord_gate_weight"], "text_gate": config["text_gate_weight"],
            "expected_l1": config["coord_el1_weight"], "expected_huber": config["coord_ehuber_weight"],
            "coord_ce": config["coord_ce_weight"],
        } | self.factors  # fmt: skip
        terms = {f"coord_reg/{name}": self.mean(name) for name in factors if self.pairs[name]}
        terms |= {f"geo/{name}": self.mean(name) for name in ("smoothl1", "ciou") if self.pairs[name]}
        terms |= {name: self.mean(name) for name in ("struct_ce", "desc_ce", "coord_token_ce") if self.pairs[name]}
        if self.pairs["w1"]:
            terms["coord_reg"] = sum(factor * self.mean(name) for name, factor in factors.items())
            terms["geo"] = geo["smoothl1_weight"] * self.mean("smoothl1") + geo["ciou_weight"] * self.mean("ciou")
        return terms

    def total(self) -> torch.Tensor:
        """Σ module weight × module loss."""
        parts, weights = self.components(), self.knobs.module_weights
        zero = torch.zeros((), dtype=self.weight.dtype)
        coord = parts.get("coord_reg", zero)
        coord = coord + self.knobs.coord_reg["coord_ce_weight"] * parts.get("coord_token_ce", zero)
        return (
            weights["token_ce"] * self.mean("struct_ce", "desc_ce")
            + weights["bbox_geo"] * parts.get("geo", zero)
            + weights["coord_reg"] * coord
        )


def ordered(box: torch.Tensor) -> list[torch.Tensor]:
    """Corners sorted, each side at least half a bin."""
    x1, x2 = (box[0], box[2]) if box[0] <= box[2] else (box[2], box[0])
    y1, y2 = (box[1], box[3]) if box[1] <= box[3] else (box[3], box[1])
    least = 0.5 / 999
    grow = [max(0.0, least - float((far - near).detach())) for near, far in ((x1, x2), (y1, y2))]
    return [x1, y1, x2 + grow[0], y2 + grow[1]]


def ciou(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """1 − IoU + ρ²/c² + αv, with 1e-7 in each denominator."""

    def size(box: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return box[2] - box[0], box[3] - box[1]

    (wa, ha), (wb, hb) = size(a), size(b)
    wide = torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])
    high = torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])
    inter = wide * high if wide > 0 and high > 0 else torch.zeros_like(wa)
    iou = inter / (wa * ha + wb * hb - inter + 1e-7)
    rho = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    c = (torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])) ** 2
    c = c + (torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])) ** 2
    shape = torch.atan(wa / ha)
    if min(float(wa.detach()), float(ha.detach())) <= 0.5 / 999 * (1 + 1e-7):
        shape = shape.detach()
    v = 4 / math.pi**2 * (torch.atan(wb / hb) - shape) ** 2
    alpha = (v / (1 - iou + v + 1e-7)).detach()
    return 1 - iou + rho / (c + 1e-7) + alpha * v
