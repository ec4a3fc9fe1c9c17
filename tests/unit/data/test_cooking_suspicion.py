"""Suspicion while cooking: boxes that are hardly x, y, width, height, much that was dropped, nothing left to learn."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugins.found_files import CASES, Kitchen, check_balance, kitchen

__all__ = ["kitchen"]


def draw_boxes(rng: np.random.Generator, count: int, size: int = 640) -> list[list[float]]:
    """Corners x1, y1, x2, y2 of boxes inside an image of this size."""
    low = rng.integers(0, size - 200, size=(count, 2))
    return np.concatenate([low, low + rng.integers(40, 200, size=(count, 2))], axis=1).tolist()


@pytest.mark.invariant("DATA-046")
def test_boxes_in_the_unit_square_are_refused(kitchen: Kitchen) -> None:
    cooked = kitchen.case("f1-normalised-boxes")
    assert cooked.code == 1
    assert "annotations[0].bbox (annotation id 1, image id 1) [0.15, 0.15, 0.31, 0.31] lies in [0, 1]" in cooked.err
    assert "2 of 2 boxes" in cooked.err
    kitchen.add("a.png", [1, 1, 9, 9], [0.5, 0.5, 0.25, 1])
    cooked = kitchen.cook()
    assert cooked.code == 1
    assert "annotations[1].bbox (annotation id 2, image id 1)" in cooked.err


@pytest.mark.invariant("DATA-046")
def test_small_whole_boxes_and_boxes_without_area_are_not_suspected(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [0, 0, 1, 1], [0.5, 0.5, 0, 0], [0.5, 0.5, 2, 2])
    assert kitchen.cook().code == 0


@pytest.mark.invariant("DATA-046")
def test_corners_in_place_of_sizes_are_a_warning_and_with_strict_an_error(kitchen: Kitchen) -> None:
    cooked = kitchen.case("f4-corners-as-sizes")
    assert cooked.code == 0
    says = "all 2 boxes reach beyond their image, such as annotations[0].bbox (annotation id 1, image id 1)"
    assert says in cooked.err
    assert "2 of them would fit as corners x1, y1, x2, y2" in cooked.err
    assert cooked.manifest["warnings"] == [cooked.err.partition("warning: ")[2].rstrip("\n")]
    strict = kitchen.case("f4-corners-as-sizes", "--strict")
    assert strict.code == 1
    assert says in strict.err


@pytest.mark.invariant("DATA-046")
def test_each_notation_is_recognized_in_a_file_of_usual_boxes(kitchen: Kitchen) -> None:
    corners = draw_boxes(np.random.default_rng(5), 60)
    centers = [[(a + c) / 2, (b + d) / 2, c - a, d - b] for a, b, c, d in corners]
    sizes = [[a, b, c - a, d - b] for a, b, c, d in corners]
    doubled = [[2 * value for value in box] for box in sizes]
    for number, (boxes, says) in enumerate(
        [(corners, "would fit as corners"), (centers, "as YOLO writes them"), (doubled, "another size"), (sizes, None)]
    ):
        kitchen.coco["images"], kitchen.coco["annotations"] = [], []
        for start in range(0, 60, 6):
            kitchen.add(f"{number}-{start}.png", *boxes[start : start + 6], size=(640, 640))
        cooked = kitchen.cook("--max-pixels", "409600")
        assert cooked.code == 0
        if says is None:
            assert cooked.manifest["warnings"] == []
        else:
            assert says in cooked.err


@pytest.mark.invariant("DATA-046")
def test_one_image_of_another_notation_among_many_is_found(kitchen: Kitchen) -> None:
    for number in range(20):
        kitchen.add(f"{number}.png", [1, 1, 9, 9], [30, 30, 9, 9])
    kitchen.add("odd.png", [40, 40, 60, 60], [30, 20, 50, 44], [33, 33, 63, 63])
    cooked = kitchen.cook()
    assert "3 of 43 boxes reach beyond their image, such as annotations[40].bbox" in cooked.err
    assert "3 of them would fit as corners" in cooked.err


@pytest.mark.invariant("DATA-046")
def test_a_few_boxes_that_reach_a_little_beyond_are_only_clipped(kitchen: Kitchen) -> None:
    for number in range(10):
        kitchen.add(f"{number}.png", [1, 1, 9, 9], [-1, 30, 9, 35], [50, 2, 15.5, 9])
    kitchen.add("far.png", [40, 40, 60, 60], [1, 1, 5, 5])
    cooked = kitchen.cook()
    assert (cooked.manifest["warnings"], cooked.manifest["adjusted"]["box_clipped"]) == ([], 21)


@pytest.mark.invariant("DATA-047")
@pytest.mark.parametrize(
    ("case", "flags", "says"),
    [
        ("f2-all-crowd", [], "Of 1 objects: 1 crowd"),
        ("f3-all-unmapped", ["--category-map", str(CASES / "f3-all-unmapped/map.json")], "1 unmapped_category"),
    ],
)
def test_a_file_of_which_nothing_is_left_is_an_error(kitchen: Kitchen, case: str, flags: list[str], says: str) -> None:
    cooked = kitchen.case(case, *flags)
    assert cooked.code == 1
    assert "nothing is left to learn" in cooked.err
    assert says in cooked.err


@pytest.mark.invariant("DATA-047")
def test_images_without_objects_are_an_error_unless_they_are_meant(kitchen: Kitchen) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook()
    assert cooked.code == 1
    assert "the file has no annotations, only 1 images" in cooked.err
    assert "--background" in cooked.err
    assert kitchen.cook("--background").manifest["records"]["kept_empty"] == 1
    kitchen.add("b.png", [1, 1, 9, 9])
    assert kitchen.cook().manifest["records"]["kept_empty"] == 1


@pytest.mark.invariant("DATA-048")
def test_a_share_of_drops_above_five_percent_is_a_warning(kitchen: Kitchen) -> None:
    kitchen.add("a.png", *[[k, 1, 9, 9] for k in range(38)], [1, 1, 0, 0], [1, 1, 0, 0])
    assert kitchen.cook().manifest["warnings"] == []
    kitchen.add("b.png", [90, 1, 9, 9])
    cooked = kitchen.cook()
    says = "3 of 41 objects (7%) are dropped, most of them as zero_area (2)"
    assert cooked.manifest["warnings"] == [says]
    assert f"cook: warning: {says}" in cooked.err
    check_balance(cooked.manifest)
    assert kitchen.cook("--strict").code == 1


@pytest.mark.invariant("DATA-081")
@pytest.mark.parametrize(("key", "what"), [("category_id", "a category"), ("image_id", "an image")])
def test_annotations_of_what_is_not_there_are_named(kitchen: Kitchen, key: str, what: str) -> None:
    kitchen.add("a.png", *[[number, 1, 9, 9] for number in range(40)])
    kitchen.coco["annotations"][7][key] = 99
    cooked = kitchen.cook()
    assert cooked.code == 0
    says = f"1 of 40 annotations name {what} that the file does not have, such as annotations[7].{key} 99; the ids"
    assert says in cooked.err
    assert says in cooked.manifest["warnings"][0]
    for annotation in kitchen.coco["annotations"]:
        annotation[key] = 99
    cooked = kitchen.cook()
    assert cooked.code == 1
    assert f"40 of 40 annotations name {what}" in cooked.err
    assert "nothing is left to learn" in cooked.err


@pytest.mark.invariant("DATA-081")
def test_nothing_left_by_a_map_names_the_categories_that_it_leaves_out(kitchen: Kitchen) -> None:
    cooked = kitchen.case("f3-all-unmapped", "--category-map", str(CASES / "f3-all-unmapped/map.json"))
    assert cooked.code == 1
    assert (
        'unmapped_category: --category-map has no entry for "cell"; add those whose objects are to be kept'
        in cooked.err
    )


@pytest.mark.invariant("DATA-010")
def test_less_than_one_worker_is_refused(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    cooked = kitchen.cook("--workers", "0")
    assert cooked.code == 1
    assert "--workers is 0" in cooked.err


@pytest.mark.invariant("DATA-047")
def test_a_file_without_images_is_named_so(kitchen: Kitchen) -> None:
    (kitchen.folder / "images").mkdir()
    cooked = kitchen.cook("--background")
    assert cooked.code == 1
    assert "images is empty: there is no image to cook. Name a file with images" in cooked.err
