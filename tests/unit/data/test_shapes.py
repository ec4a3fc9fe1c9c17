"""Drawn shapes: tight boxes, visible objects, splits that share nothing, bytes that follow from the seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from coordexp.data.coco import load_coco
from coordexp.data.errors import DataError
from coordexp.data.seeds import build_generator
from coordexp.data.shapes import CATEGORIES, RULES, DrawnScene, SplitSpec, draw_scene, parse_split, write_splits
from coordexp.geometry import pairwise_iou

PLAIN = [draw_scene(build_generator(3, "shapes", "plain", index), "plain") for index in range(60)]
CROWDED = [draw_scene(build_generator(3, "shapes", "crowded", index), "crowded") for index in range(20)]


def boxes_of(scene: DrawnScene) -> np.ndarray:
    return np.array([[x, y, x + width, y + height] for _, x, y, width, height in scene.objects], dtype=float)


@pytest.mark.invariant("DATA-013")
def test_a_lone_shape_fills_its_box_to_each_side() -> None:
    lone = [scene for scene in PLAIN if len(scene.objects) == 1]
    assert len(lone) > 5
    for scene in lone:
        pixels = scene.pixels.astype(int)
        background = pixels[0, 0] if scene.objects[0][1:3] != (0, 0) else pixels[-1, -1]
        contrast = np.abs(pixels - background).max(axis=2)
        inked = contrast * 2 >= contrast.max()
        rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
        drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(boxes_of(scene)[0], drawn, atol=1)


@pytest.mark.invariant("DATA-013")
def test_colour_names_say_what_is_painted() -> None:
    seen = set()
    for scene in PLAIN:
        for category, x, y, width, height in scene.objects:
            red, green, blue = scene.pixels[y + height * 2 // 3, x + width // 2].astype(int)
            painted = (
                "yellow" if red > 160 and green > 140 else ("red", "green", "blue")[int(np.argmax([red, green, blue]))]
            )
            seen.add(painted)
            if len(scene.objects) == 1:
                assert CATEGORIES[category].split()[0] == painted
    assert seen == {"red", "green", "blue", "yellow"}


@pytest.mark.invariant("DATA-013")
@pytest.mark.parametrize(("kind", "scenes"), [("plain", PLAIN), ("crowded", CROWDED)])
def test_scenes_keep_their_rules(kind: str, scenes: list[DrawnScene]) -> None:
    rules = RULES[kind]  # type: ignore[index]
    for scene in scenes:
        height, width, _ = scene.pixels.shape
        boxes = boxes_of(scene)
        assert all(rules.canvas[0] <= side <= rules.canvas[1] for side in (width, height))
        assert rules.objects[0] <= len(boxes) <= rules.objects[1]
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= rules.min_visible
        if kind == "plain":
            assert (np.triu(pairwise_iou(boxes, boxes), 1) < 0.1).all()
    assert {len(scene.objects) for scene in scenes} == set(range(rules.objects[0], rules.objects[1] + 1))


@pytest.mark.invariant("DATA-013")
def test_crowded_scenes_overlap_and_plain_ones_hardly() -> None:
    def overlapping(scenes: list[DrawnScene]) -> float:
        return float(np.mean([np.triu(pairwise_iou(boxes_of(s), boxes_of(s)), 1).max() > 0.05 for s in scenes]))

    assert overlapping(CROWDED) > 0.8
    assert overlapping(PLAIN) < 0.3


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.invariant("DATA-014")
def test_splits_share_no_image_and_repeat_from_their_seed(tmp_path: Path) -> None:
    splits = [SplitSpec("train", 24), SplitSpec("val", 24), SplitSpec("heldout", 24), SplitSpec("busy", 6, "crowded")]
    write_splits(tmp_path / "a", splits, 5)
    write_splits(tmp_path / "b", list(reversed(splits)), 5, workers=2)
    pictures = [digest for split in splits for digest in digests(tmp_path / "a" / split.name / "images")]
    assert len(set(pictures)) == len(pictures) == 78
    for split in splits:
        assert digests(tmp_path / "a" / split.name) == digests(tmp_path / "b" / split.name)
    write_splits(tmp_path / "c", [SplitSpec("train", 24)], 6)
    assert not set(digests(tmp_path / "c/train/images")) & set(pictures)


@pytest.mark.invariant("DATA-014")
def test_a_longer_split_begins_with_the_shorter_one(tmp_path: Path) -> None:
    write_splits(tmp_path / "a", [SplitSpec("train", 3)], 5)
    write_splits(tmp_path / "b", [SplitSpec("train", 6)], 5)
    assert digests(tmp_path / "a/train/images") == digests(tmp_path / "b/train/images")[:3]


@pytest.mark.invariant("DATA-013")
def test_annotations_are_coco_and_agree_with_the_pictures(tmp_path: Path) -> None:
    write_splits(tmp_path / "a", [SplitSpec("train", 8)], 5)
    coco, content = load_coco(tmp_path / "a/train/annotations.json")
    assert [image.file_name for image in coco.images] == [f"images/{index:06d}.png" for index in range(8)]
    assert [category.name for category in coco.categories] == list(CATEGORIES)
    assert json.loads(content)["info"]["seed"] == 5
    for image in coco.images:
        scene = draw_scene(build_generator(5, "shapes", "train", image.id - 1), "plain")
        found = [(a.category_id - 1, *a.bbox) for a in coco.annotations if a.image_id == image.id]
        assert found == [tuple(map(float, values[:1])) + tuple(map(float, values[1:])) for values in scene.objects]


@pytest.mark.invariant("DATA-014")
@pytest.mark.parametrize("text", ["train", "train=0", "a/b=3", "train=5:busy", "=5", "train=-1"])
def test_a_bad_split_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="NAME=COUNT"):
        parse_split(text)


@pytest.mark.invariant("DATA-013")
def test_a_mixed_split_has_three_crowded_scenes_to_a_plain_one(tmp_path: Path) -> None:
    write_splits(tmp_path / "out", [parse_split("both=8:mixed")], 5)
    found, *_ = load_coco(tmp_path / "out" / "both" / "annotations.json")
    counts = {image.id: 0 for image in found.images}
    for annotation in found.annotations:
        counts[annotation.image_id] += 1
    plain = RULES["plain"].objects[1]
    assert [count > plain for count in counts.values()] == [True, False, True, True] * 2


@pytest.mark.invariant("DATA-014")
def test_split_names_are_unique(tmp_path: Path) -> None:
    assert parse_split("busy=200:crowded") == SplitSpec("busy", 200, "crowded")
    with pytest.raises(DataError, match="name of its own"):
        write_splits(tmp_path / "a", [SplitSpec("train", 1), SplitSpec("train", 2)], 5)
