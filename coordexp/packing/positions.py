"""One encoded sample in, its 4-row position ids out: [text; t; h; w]. Contract ids: PACK-005, PACK-006.

transformers finds the boundaries of packed samples in the text row alone, where it restarts at 0; the other three
rows are the model's own mRoPE index, computed per sample so that no row knows what a sample is packed with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import groupby

import torch
from transformers import AutoModel, PretrainedConfig

from coordexp.encode.types import EncodedSample

RopeFunction = Callable[[EncodedSample], torch.Tensor]

IMAGE = 1  # the value of an image placeholder in mm_token_type_ids; text is 0


def four_row_positions(sample: EncodedSample, rope: RopeFunction) -> torch.Tensor:
    """int64 [4, T] of a sample of T tokens: 0..T-1 for text, then the mRoPE rows t, h, w from `rope` (AUDIT-5.1)."""
    text = torch.arange(len(sample), dtype=torch.long)[None]
    return torch.cat([text, rope(sample)])


class RopeIndex:
    """mRoPE positions of one sample by the model class's own `get_rope_index`, without weights.

    Holds a one-layer copy of the architecture on the meta device, so it is small enough to pickle into dataloader
    workers.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        with torch.device("meta"):
            self.model = AutoModel.from_config(shrink_config(config))
        self.merge = int(config.vision_config.spatial_merge_size)

    def __call__(self, sample: EncodedSample) -> torch.Tensor:
        """int64 [3, T]. Raises ValueError when the image placeholders do not match `image_grid_thw`."""
        check_image_runs(sample, self.merge)
        positions, _ = self.model.get_rope_index(
            sample.input_ids[None],
            mm_token_type_ids=sample.mm_token_type_ids[None],
            image_grid_thw=sample.image_grid_thw,
        )
        return positions[:, 0].long()


def build_rope_index(config: PretrainedConfig) -> RopeIndex:
    """The mRoPE function of the architecture that `config` names: the checkpoint's whole config, text and vision."""
    return RopeIndex(config)


def shrink_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy with one layer per tower: positions depend on the grid and the merge size, never on depth."""
    small = copy.deepcopy(config)
    small.text_config.num_hidden_layers = 1
    if getattr(small.text_config, "layer_types", None):
        small.text_config.layer_types = small.text_config.layer_types[:1]
    small.vision_config.depth = 1
    small.vision_config.deepstack_visual_indexes = [0]
    return small


def check_image_runs(sample: EncodedSample, merge: int) -> EncodedSample:
    """Return the sample when each run of image placeholders is as long as its grid says, in order."""
    runs = [len(list(run)) for kind, run in groupby(sample.mm_token_type_ids.tolist()) if kind == IMAGE]
    grids = [] if sample.image_grid_thw is None else sample.image_grid_thw.tolist()
    expected = [t * h * w // merge**2 for t, h, w in grids]
    if runs != expected:
        raise ValueError(
            f"sample {sample.sample_id}: runs of image tokens are {runs}, but image_grid_thw asks for {expected}; "
            f"encode the sample again with the processor of this model"
        )
    return sample
