"""Limits, replacement and object order: which records a run sees, and that only training.seed decides."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from coordexp.coords.types import CoordObject
from coordexp.data.dataset import RecordDataset, choose_samples, draw_samples
from coordexp.data.errors import DataError
from coordexp.data.ordering import order_objects
from coordexp.data.records import read_records
from coordexp.data.types import Record


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """Twenty records of six objects, in no order."""
    rng = np.random.default_rng(5)
    lines = []
    for number in range(20):
        corners = rng.integers(0, 500, size=(6, 2))
        objects = [
            {"desc": f"{number}-{i}", "bbox_2d": [f"<|coord_{k}|>" for k in (x, y, x + 9, y + 9)]}
            for i, (x, y) in enumerate(corners.tolist())
        ]
        lines.append(json.dumps({"images": ["a.png"], "width": 32, "height": 32, "objects": objects}))
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def lines_of(dataset: RecordDataset) -> list[int]:
    return [int(source.rpartition(":")[2]) for source in dataset.sample_ids]


@pytest.mark.invariant("DATA-018")
def test_without_a_limit_every_record_is_there_in_file_order(jsonl: Path) -> None:
    assert lines_of(draw_samples(read_records(jsonl), seed=1)) == list(range(1, 21))


@pytest.mark.invariant("DATA-018")
def test_a_limit_takes_that_many_different_records_in_file_order(jsonl: Path) -> None:
    chosen = lines_of(draw_samples(read_records(jsonl), sample_limit=7, seed=1))
    assert len(chosen) == len(set(chosen)) == 7
    assert chosen == sorted(chosen)
    assert chosen == lines_of(draw_samples(read_records(jsonl), sample_limit=7, seed=1))
    assert chosen != lines_of(draw_samples(read_records(jsonl), sample_limit=7, seed=2))


@pytest.mark.invariant("DATA-018")
def test_train_and_val_draw_from_streams_of_their_own(jsonl: Path) -> None:
    train = draw_samples(read_records(jsonl), sample_limit=7, seed=1)
    assert lines_of(train) != lines_of(draw_samples(read_records(jsonl), sample_limit=7, seed=1, split="val"))


@pytest.mark.invariant("DATA-018")
def test_a_limit_above_the_number_of_records_takes_each_once(jsonl: Path) -> None:
    assert lines_of(draw_samples(read_records(jsonl), sample_limit=50, seed=1)) == list(range(1, 21))


@pytest.mark.invariant("DATA-018")
def test_with_replacement_the_limit_is_the_number_of_draws(jsonl: Path) -> None:
    dataset = draw_samples(read_records(jsonl), sample_limit=50, with_replacement=True, seed=1)
    assert len(dataset) == 50
    assert dataset.repeats == 50 - len(set(dataset.sample_ids)) >= 30
    assert (
        dataset.sample_ids
        == draw_samples(read_records(jsonl), sample_limit=50, with_replacement=True, seed=1).sample_ids
    )


@pytest.mark.invariant("DATA-018")
def test_a_prefix_bias_free_choice_covers_the_whole_file() -> None:
    seen = {index for seed in range(40) for index in choose_samples(20, 4, False, seed, "train")}
    assert seen == set(range(20))


@pytest.mark.invariant("DATA-018")
@pytest.mark.parametrize(
    ("limit", "again", "says"), [(0, False, "≥ 1"), (-2, True, "≥ 1"), (None, True, "number of draws")]
)
def test_a_limit_that_means_nothing_is_refused(limit: int | None, again: bool, says: str) -> None:
    with pytest.raises(DataError, match=says):
        choose_samples(20, limit, again, 1, "val")


@pytest.mark.invariant("DATA-017")
def test_sorted_goes_down_then_right_and_keeps_ties_as_written() -> None:
    def item(desc: str, kind: str, *bins: int) -> CoordObject:
        return CoordObject(desc, kind, bins)  # type: ignore[arg-type]

    objects = (
        item("d", "bbox_2d", 5, 9, 6, 10),
        item("b", "bbox_2d", 7, 2, 8, 3),
        item("c", "poly", 30, 40, 20, 2, 8, 60),
        item("a", "bbox_2d", 1, 2, 900, 3),
        item("b2", "bbox_2d", 7, 2, 7, 2),
    )
    ordered = order_objects(Record("x:1", ("a",), 1, 1, objects), "sorted", 1)
    assert [found.desc for found in ordered.objects] == ["a", "b", "b2", "c", "d"]
    assert ordered.objects[3].bins == (30, 40, 20, 2, 8, 60)


@pytest.mark.invariant("DATA-017")
def test_random_is_a_permutation_fixed_by_seed_and_sample(jsonl: Path) -> None:
    plain = read_records(jsonl)
    first, again, other = (draw_samples(read_records(jsonl), object_ordering="random", seed=seed) for seed in (1, 1, 2))
    assert first.records == again.records != other.records
    for record, shuffled in zip(plain, first, strict=True):
        assert sorted(shuffled.objects, key=str) == sorted(record.objects, key=str)
    places = {
        tuple(record.objects.index(found) for found in shuffled.objects)
        for record, shuffled in zip(plain, first, strict=True)
    }
    assert len(places) > 10


@pytest.mark.invariant("DATA-017")
def test_random_order_ignores_global_generators_and_the_folder(jsonl: Path, tmp_path: Path) -> None:
    first = draw_samples(read_records(jsonl), object_ordering="random", seed=1)
    random.seed(99)
    np.random.seed(99)
    moved = tmp_path / "elsewhere" / jsonl.name
    moved.parent.mkdir()
    shutil.copy(jsonl, moved)
    again = draw_samples(read_records(moved), object_ordering="random", seed=1)
    assert [record.objects for record in first] == [record.objects for record in again]


@pytest.mark.invariant("DATA-017")
def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="'sorted' or 'random'"):
        order_objects(Record("x:1", ("a",), 1, 1, ()), "shuffled", 1)  # type: ignore[arg-type]


@pytest.mark.invariant("DATA-018")
def test_a_dataset_slices_and_indexes(jsonl: Path) -> None:
    dataset = draw_samples(read_records(jsonl), seed=1)
    assert dataset[3:5].sample_ids == dataset.sample_ids[3:5]
    assert dataset[-1].source == dataset.sample_ids[-1]
