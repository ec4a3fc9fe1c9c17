"""A stage-1 step counted by hand: samples one by one through the plain model, sums and counts over all of them.

Shares the encoder with the runtime, and nothing of packing, plans, masks, losses, loop or optimizer groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config import Config
from coordexp.data.ordering import order_objects
from coordexp.data.records import read_records
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.processor import load_processor
from coordexp.encode.types import TokenSubset, TokenType
from coordexp.forward.head import OutputHead
from tests.unit.losses.reference import Knobs, Reference
from tests.unit.losses.synthetic import Sample


def knobs_of(config: Config) -> Knobs:
    """The weights that the config's flat keys stand for."""
    custom, coord = config.custom, config.custom.coord_soft_ce_w1
    return Knobs(
        token_ce={"desc_ce_weight": custom.desc_ce_weight, "rollout_drop_invalid_struct_ce_multiplier": 1.0},
        bbox_geo={"smoothl1_weight": custom.bbox_geo.smoothl1_weight, "ciou_weight": custom.bbox_geo.ciou_weight},
        coord_reg={
            "soft_ce_weight": coord.soft_ce_weight,
            "w1_weight": coord.w1_weight,
            "coord_gate_weight": coord.gate_weight,
            "text_gate_weight": coord.text_gate_weight,
            "coord_ce_weight": coord.ce_weight,
            "temperature": coord.temperature,
            "target_sigma": coord.target_sigma,
            "target_truncate": coord.target_truncate,
            "coord_entropy_weight": 0.0,
            "coord_el1_weight": 0.0,
            "coord_ehuber_weight": 0.0,
            "coord_huber_delta": 0.001,
        },
    )


class HandCount:
    """The model of a checkpoint in train mode, and the records of a file."""

    def __init__(self, config: Config, checkpoint: Path, jsonl: Path) -> None:
        self.model: Any = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).train()
        self.encoder: Encoder = build_encoder(load_processor(checkpoint), config)
        self.records = [order_objects(record, "sorted", 0) for record in read_records(jsonl)]
        self.knobs = knobs_of(config)

    def step(self, indices: Sequence[int]) -> Reference:
        """All terms over the records at `indices`, with gradient."""
        ids = torch.tensor(self.encoder.coords.ids)
        reference = Reference(self.knobs, OutputHead(self.model.lm_head.weight, ids))
        for index in indices:
            encoded = self.encoder.encode(self.records[index])
            hidden = self.model.model(
                input_ids=encoded.input_ids[None],
                mm_token_type_ids=encoded.mm_token_type_ids[None],
                pixel_values=encoded.pixel_values,
                image_grid_thw=encoded.image_grid_thw,
                use_cache=False,
            ).last_hidden_state[0]
            sample = Sample(
                encoded.sample_id,
                encoded.input_ids.tolist(),
                [TokenType(kind) for kind in encoded.token_types.tolist()],
                [TokenSubset(subset) for subset in encoded.subsets.tolist()],
                list(encoded.objects),
                encoded.prompt_length,
            )
            # The newline after <|im_end|> ends the turn and is learnt by nobody.
            sample.ids, sample.types = sample.ids[:-1], sample.types[:-1]
            reference.add(sample, hidden, "stage1")
        return reference

    def gradient_norm(self) -> float:
        """Norm over all parameters' gradients."""
        parts = [p.grad.square().sum() for p in self.model.parameters() if p.grad is not None]
        return float(torch.stack(parts).sum().sqrt())
