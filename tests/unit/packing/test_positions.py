"""Four-row positions: the model class's own mRoPE per sample, without weights, in any process."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from coordexp.packing.collate import collate_packed
from coordexp.packing.positions import build_rope_index, four_row_positions
from tests.plugins.tiny_qwen import four_samples, random_sample, tiny_config, tiny_model


@pytest.fixture(scope="module")
def rope():
    return build_rope_index(tiny_config())


@pytest.mark.invariant("PACK-005")
def test_mrope_rows_are_those_of_the_loaded_model(rope):
    model = tiny_model().model
    for sample in four_samples():
        expected, _ = model.get_rope_index(
            sample.input_ids[None], sample.mm_token_type_ids[None], sample.image_grid_thw
        )
        assert torch.equal(rope(sample), expected[:, 0])


@pytest.mark.invariant("PACK-005")
def test_an_image_of_two_by_three_merged_patches_has_these_positions(rope):
    sample = random_sample(0, ((4, 6),), words=1, boxes=0)
    text, t, h, w = four_row_positions(sample, rope).tolist()
    assert text == list(range(10))
    assert t == [0, 1, 1, 1, 1, 1, 1, 4, 5, 6]
    assert h == [0, 1, 1, 1, 2, 2, 2, 4, 5, 6]
    assert w == [0, 1, 2, 3, 1, 2, 3, 4, 5, 6]


@pytest.mark.invariant("PACK-005")
def test_the_text_row_restarts_at_every_segment_of_a_pack(rope):
    samples = four_samples()
    positions = collate_packed(samples, rope).position_ids
    assert positions.shape == (4, 1, sum(map(len, samples)))
    assert positions[0, 0].tolist() == [place for sample in samples for place in range(len(sample))]


@pytest.mark.invariant("PACK-005")
def test_the_rope_index_holds_no_weights_and_survives_pickling(rope):
    assert all(parameter.is_meta for parameter in rope.model.parameters())
    payload = pickle.dumps(rope)
    assert len(payload) < 100_000
    sample = random_sample(1)
    assert torch.equal(pickle.loads(payload)(sample), rope(sample))


@pytest.mark.invariant("PACK-005")
def test_dataloader_workers_collate_what_this_process_collates(rope):
    samples = four_samples()
    loader = DataLoader(samples, batch_size=2, num_workers=1, collate_fn=lambda group: collate_packed(group, rope))
    for found, group in zip(loader, (samples[:2], samples[2:]), strict=True):
        assert torch.equal(found.position_ids, collate_packed(group, rope).position_ids)


@pytest.mark.invariant("PACK-006")
@pytest.mark.parametrize("grid", [[[1, 4, 4]], [[1, 4, 6], [1, 4, 6]], None])
def test_image_tokens_that_do_not_match_the_grid_are_refused(rope, grid):
    sample = dataclasses.replace(
        random_sample(0, ((4, 6),)), image_grid_thw=None if grid is None else torch.tensor(grid)
    )
    with pytest.raises(ValueError, match=r"sample sample-0: runs of image tokens are \[6\]"):
        rope(sample)


@pytest.mark.invariant("PACK-006")
def test_grids_in_the_wrong_order_are_refused(rope):
    """The total fits, so nothing later would notice."""
    sample = random_sample(0, ((4, 4), (6, 4)))
    swapped = dataclasses.replace(sample, image_grid_thw=sample.image_grid_thw.flip(0))
    with pytest.raises(ValueError, match=r"runs of image tokens are \[4, 6\], but image_grid_thw asks for \[6, 4\]"):
        rope(swapped)


@pytest.mark.invariant("PACK-006")
def test_two_images_without_a_token_between_them_are_refused(rope):
    """The model class would read them as one image and give wrong positions without a word."""
    sample = random_sample(0, ((4, 4), (4, 4)))
    together = sample.mm_token_type_ids.clone()
    together[5:7] = 1
    with pytest.raises(ValueError, match=r"runs of image tokens are \[10\], but image_grid_thw asks for \[4, 4\]"):
        rope(dataclasses.replace(sample, mm_token_type_ids=together))
