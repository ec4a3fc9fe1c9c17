"""Cooking: what is kept, what is dropped and counted, which bytes come out, and what is never overwritten."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.data.coco import CocoAnnotation, parse_coco
from coordexp.data.cooking import MANIFEST_NAME, RECORDS_NAME, cook
from coordexp.data.cooking_names import Names
from coordexp.data.cooking_objects import Frame, cook_objects
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.errors import DataError
from coordexp.data.records import read_records
from coordexp.data.survey import survey_file
from coordexp.geometry import bins_to_pixels
from coordexp.spec import Case, load_cases, read_json

CASES = load_cases(Path(__file__).parents[3] / "fixtures/records/cooking.json").cases
BCCD = Path(__file__).parents[3] / "fixtures/bccd"
OPTIONS = CookOptions(max_pixels=128 * 128)


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


class Kitchen:
    """A small COCO file under a folder, its images, and cooking it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}

    def add(self, name: str, size: tuple[int, int], *boxes: list[float], write: bool = True, **more: Any) -> None:
        image_id = len(self.coco["images"]) + 1
        self.coco["images"].append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for box in boxes:
            number = len(self.coco["annotations"]) + 1
            self.coco["annotations"].append({"id": number, "image_id": image_id, "category_id": 1, "bbox": box} | more)
        if write:
            write_image(self.folder / "images" / name, size, image_id)

    def cook(self, out: str = "out", options: CookOptions = OPTIONS, workers: int = 1) -> dict[str, Any]:
        path = self.folder / "annotations.json"
        path.write_text(json.dumps(self.coco))
        return cook(CookSource(path, self.folder / "images"), self.folder / out, options, workers=workers)


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


def digest_tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_balance(manifest: dict[str, Any]) -> None:
    """Everything that came in was kept or dropped for exactly one reason."""
    objects, records = manifest["objects"], manifest["records"]
    assert objects["input"] == objects["kept"] + sum(objects["ignored"].values()) + sum(objects["dropped"].values())
    merged = manifest["adjusted"]["image_merged"]
    assert records["input"] == records["kept"] + merged + sum(records["dropped"].values())


@pytest.mark.invariant("DATA-009")
@pytest.mark.invariant("DATA-010")
@pytest.mark.invariant("DATA-044")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_each_annotation_is_kept_or_dropped_for_its_reason(case: Case) -> None:
    annotation = CocoAnnotation(**{"id": 1, "image_id": 1, "category_id": 1} | case.input)
    cooked = cook_objects([annotation], Frame((100, 50), (96, 64)), Names({1: "cat"}), OPTIONS)
    assert dict(cooked.dropped) == ({case.expect["dropped"]: 1} if "dropped" in case.expect else {})
    bins = [[int(token[8:-2]) for token in found["bbox_2d"]] for found in cooked.objects]
    assert bins == ([case.expect["bins"]] if "bins" in case.expect else [])
    assert dict(cooked.adjusted) == dict.fromkeys(case.expect.get("adjusted", ()), 1)
    assert dict(cooked.ignored) == ({case.expect["ignored"]: 1} if "ignored" in case.expect else {})
    regions = [(region.desc, pytest.approx(region.box)) for region in cooked.regions]
    assert regions == ([("cat", tuple(case.expect["region"]))] if "region" in case.expect else [])


@pytest.mark.invariant("DATA-009")
def test_every_drop_is_counted_under_its_reason(kitchen: Kitchen) -> None:
    box = [1.0, 1.0, 20.0, 20.0]
    kitchen.add("kept.png", (64, 64), box, [1, 1, 0, 5], box)
    kitchen.add("many.png", (64, 64), *([x, 1, 5, 5] for x in (1, 9, 17, 25)))
    kitchen.add("absent.png", (64, 64), box, write=False)
    kitchen.add("long.png", (3000, 8), [1, 1, 5, 5])
    kitchen.add("empty.png", (64, 64))
    kitchen.add("other_size.png", (64, 64), box, write=False)
    write_image(kitchen.folder / "images/other_size.png", (64, 32))
    kitchen.add("broken.png", (64, 64), box, box, write=False)
    (kitchen.folder / "images/broken.png").write_bytes(b"no image")
    kitchen.add("kept.png", (64, 64), box, [1, 1, 9, 9])
    kitchen.coco["annotations"].append({"id": 99, "image_id": 99, "category_id": 1, "bbox": box})
    kitchen.coco["annotations"].append({"id": 98, "image_id": 1, "category_id": 7, "bbox": box})
    manifest = kitchen.cook(options=CookOptions(128 * 128, max_objects=3))
    check_balance(manifest)
    nonzero = {reason: count for reason, count in manifest["objects"]["dropped"].items() if count}
    assert nonzero == {"zero_area": 1, "duplicate": 3, "unknown_image": 1, "unmapped_category": 1, "record_dropped": 8}
    assert manifest["records"] == {
        "input": 8,
        "kept": 2,
        "kept_empty": 1,
        "dropped": {
            "max_objects": 1,
            "empty": 0,
            "missing_image": 1,
            "unreadable_image": 0,
            "not_an_image": 1,
            "truncated_image": 0,
            "corrupt_image": 0,
            "unsupported_depth": 0,
            "unsupported_colour": 0,
            "decompression_bomb": 0,
            "size_mismatch": 1,
            "extreme_aspect": 1,
        },
    }
    assert manifest["adjusted"]["image_merged"] == 1
    assert manifest["descs"] == {"cat": 2}
    assert read_json(kitchen.folder / "out" / MANIFEST_NAME) == manifest
    assert len(read_records(kitchen.folder / "out" / RECORDS_NAME)) == 2


@pytest.mark.invariant("DATA-009")
def test_records_without_objects_can_be_dropped_and_are_then_counted(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    kitchen.add("b.png", (64, 64), [1, 1, 5, 5], iscrowd=1)
    manifest = kitchen.cook(options=CookOptions(128 * 128, keep_empty=False))
    check_balance(manifest)
    assert (manifest["records"]["kept"], manifest["records"]["dropped"]["empty"]) == (1, 1)
    assert manifest["objects"]["dropped"]["record_dropped"] == 1


@pytest.mark.invariant("DATA-009")
def test_a_category_map_renames_and_what_it_lacks_is_counted(kitchen: Kitchen) -> None:
    kitchen.coco["categories"].append({"id": 2, "name": "dog"})
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    kitchen.add("b.png", (64, 64), [1, 1, 5, 5], category_id=2)
    manifest = kitchen.cook(options=CookOptions(128 * 128, category_map={"dog": "small dog"}))
    assert manifest["descs"] == {"small dog": 1}
    assert manifest["objects"]["dropped"]["unmapped_category"] == 1
    with pytest.raises(DataError, match="no category 'horse'"):
        kitchen.cook("other", CookOptions(128 * 128, category_map={"horse": "horse"}))


@pytest.mark.invariant("DATA-009")
@pytest.mark.parametrize("name", [" ", "<|im_end|>"])
def test_a_category_that_cannot_be_a_desc_is_refused(kitchen: Kitchen, name: str) -> None:
    kitchen.coco["categories"] = [{"id": 1, "name": name}]
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    with pytest.raises(DataError, match="cannot be a desc"):
        kitchen.cook()


@pytest.mark.invariant("DATA-009")
def test_nothing_left_to_write_is_an_error_that_says_why(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5], write=False)
    (kitchen.folder / "images").mkdir()
    with pytest.raises(DataError, match=r"no record is left to write\. Of 1 images: 1 missing_image"):
        kitchen.cook()
    assert not (kitchen.folder / "out").exists()


@pytest.mark.invariant("DATA-009")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[]", "a list of 0 entries, not COCO-style"),
        (b'{"images": [], "categories": []}', "annotations"),
        (
            (
                b'{"images": [], "categories": [], "annotations": [{"id": 1, "image_id": 1, "category_id": 1,'
                b' "bbox": [1, 2, 3]}]}'
            ),
            r"annotations\[0\]\.bbox \(annotation id 1, image id 1\): it is a list of four numbers, got 3: \[1, 2, 3\]",
        ),
        (
            (
                b'{"images": [{"id": 1, "file_name": "a", "width": 1, "height": 1}, {"id": 1, "file_name": "b",'
                b' "width": 1, "height": 1}], "categories": [], "annotations": []}'
            ),
            "id 1 twice",
        ),
    ],
)
def test_malformed_annotations_are_refused_with_their_place(content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        parse_coco(content, "annotations.json")


@pytest.mark.invariant("DATA-010")
def test_images_are_cooked_to_multiples_within_the_cap_and_boxes_follow_each_axis(kitchen: Kitchen) -> None:
    sizes = [(100, 50), (300, 200), (64, 32), (33, 170), (10, 10)]
    for number, (width, height) in enumerate(sizes):
        box = [width * 0.25, height * 0.5, width * 0.5, height * 0.25]
        kitchen.add(f"{number}.png", (width, height), box)
    kitchen.cook()
    jsonl = kitchen.folder / "out" / RECORDS_NAME
    assert survey_file(jsonl, images="open").problems == []
    for (width, height), record in zip(sizes, read_records(jsonl), strict=True):
        assert record.width % 32 == record.height % 32 == 0
        assert record.width * record.height <= OPTIONS.max_pixels
        ratio = (record.width / width) / (record.height / height)
        assert 1 / 1.5 < ratio < 1.5
        corners = bins_to_pixels(record.objects[0].bins, record.width, record.height)
        expected = np.array([0.25, 0.5, 0.75, 0.75]) * ([record.width, record.height] * 2)
        np.testing.assert_allclose(corners, expected, atol=0.5 * max(record.width, record.height) / 999 + 1e-9)


@pytest.mark.invariant("DATA-010")
def test_an_image_of_the_right_size_is_copied_byte_for_byte(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 96), [1, 1, 5, 5])
    manifest = kitchen.cook()
    assert (kitchen.folder / "out/images/a.png").read_bytes() == (kitchen.folder / "images/a.png").read_bytes()
    assert manifest["adjusted"]["image_copied"] == 1


@pytest.mark.invariant("DATA-010")
def test_an_image_of_another_size_than_its_boxes_is_not_cooked(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    kitchen.add("turned.png", (64, 32), [1, 1, 5, 5], write=False)
    write_image(kitchen.folder / "images/turned.png", (32, 64))
    manifest = kitchen.cook()
    assert manifest["records"]["dropped"]["size_mismatch"] == 1
    assert [record.images for record in read_records(kitchen.folder / "out" / RECORDS_NAME)] == [("images/a.png",)]


@pytest.mark.invariant("DATA-010")
def test_a_turned_or_transparent_image_is_written_as_plain_rgb(kitchen: Kitchen) -> None:
    kitchen.add("turned.jpg", (96, 64), [1, 1, 5, 5], write=False)
    kitchen.add("clear.png", (96, 64), [1, 1, 5, 5], write=False)
    (kitchen.folder / "images").mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (96, 64), (9, 9, 9)).save(kitchen.folder / "images/turned.jpg", exif=exif)
    Image.new("RGBA", (96, 64), (0, 0, 0, 0)).save(kitchen.folder / "images/clear.png")
    manifest = kitchen.cook()
    assert manifest["adjusted"]["image_reencoded"] == 2
    for name, gray in (("turned.png", 9), ("clear.png", 255)):
        with Image.open(kitchen.folder / "out/images" / name) as written:
            assert (written.mode, written.size, dict(written.getexif())) == ("RGB", (96, 64), {})
            assert abs(written.getpixel((3, 3))[0] - gray) <= 1


@pytest.mark.invariant("DATA-010")
def test_polygons_keep_their_points_and_what_has_none_is_cooked_as_a_box(kitchen: Kitchen) -> None:
    points = [50.0, 10.0, 10.0, 10.0, 10.0, 40.0, 70.0, 64.0]
    kitchen.add("a.png", (64, 64), [1, 1, 60, 60], segmentation=[points])
    kitchen.add("b.png", (64, 64), [1, 1, 60, 60], segmentation={"counts": [1], "size": [64, 64]})
    kitchen.add("c.png", (64, 64), [1, 1, 60, 60], segmentation=[points, points])
    manifest = kitchen.cook(options=CookOptions(128 * 128, geometry="poly"))
    first, second, third = (record.objects[0] for record in read_records(kitchen.folder / "out" / RECORDS_NAME))
    assert (first.kind, first.bins) == ("poly", (793, 159, 159, 159, 159, 634, 999, 999))
    assert second.kind == third.kind == "bbox_2d"
    assert (manifest["adjusted"]["poly_as_box"], manifest["adjusted"]["poly_clipped"]) == (2, 1)


@pytest.mark.invariant("DATA-011")
def test_the_same_input_gives_the_same_bytes_whatever_the_workers(kitchen: Kitchen) -> None:
    for number in range(5):
        kitchen.add(f"{number}.png", (70 + number, 50), [1, 1, 30, 30])
    kitchen.cook("first")
    kitchen.cook("second")
    kitchen.cook("third", workers=2)
    first = digest_tree(kitchen.folder / "first")
    assert len(first) == 7
    assert first == digest_tree(kitchen.folder / "second") == digest_tree(kitchen.folder / "third")


@pytest.mark.invariant("DATA-011")
def test_nothing_is_overwritten(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    kitchen.cook()
    before = digest_tree(kitchen.folder)
    with pytest.raises(DataError, match="nothing is overwritten"):
        kitchen.cook()
    assert digest_tree(kitchen.folder) == before


@pytest.mark.invariant("DATA-011")
def test_a_failure_leaves_nothing_behind(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    kitchen.add("../outside.png", (64, 64), [1, 1, 5, 5])
    with pytest.raises(DataError, match="outside its root"):
        kitchen.cook()
    assert sorted(path.name for path in kitchen.folder.iterdir()) == ["annotations.json", "images", "outside.png"]


@pytest.mark.invariant("DATA-011")
def test_two_images_that_would_share_a_name_are_refused(kitchen: Kitchen) -> None:
    kitchen.add("a.png", (64, 64), [1, 1, 5, 5])
    kitchen.add("a.jpg", (64, 64), [1, 1, 5, 5])
    with pytest.raises(DataError, match="would both be cooked"):
        kitchen.cook()


@pytest.mark.invariant("DATA-010")
@pytest.mark.parametrize("options", [CookOptions(1023), CookOptions(2048, max_objects=0), CookOptions(2048, factor=0)])
def test_options_that_cannot_be_met_are_refused(kitchen: Kitchen, options: CookOptions) -> None:
    with pytest.raises(DataError, match="at least"):
        kitchen.cook(options=options)


@pytest.mark.invariant("DATA-010")
def test_real_photographs_cook_with_their_defects_counted(tmp_path: Path) -> None:
    source = CookSource(BCCD / "annotations.json", BCCD)
    manifest = cook(source, tmp_path / "bccd", CookOptions(640 * 480))
    check_balance(manifest)
    assert (manifest["records"]["kept"], manifest["objects"]["kept"]) == (12, 139)
    assert {reason: count for reason, count in manifest["objects"]["dropped"].items() if count} == {"zero_area": 1}
    assert manifest["adjusted"]["edge_clipped"] == 15
    survey = survey_file(tmp_path / "bccd" / RECORDS_NAME, images="exists")
    assert survey.problems == []
    assert survey.most_objects == 17
    coco = parse_coco(source.annotations.read_bytes(), "bccd")
    sizes = {image.id: (image.width, image.height) for image in coco.images}
    records = {record.metadata["image_id"]: record for record in read_records(tmp_path / "bccd" / RECORDS_NAME)}
    edges = 0
    for image_id, record in records.items():
        kept = [a for a in coco.annotations if a.image_id == image_id and a.bbox[2] > 0 and a.bbox[3] > 0]
        for annotation, found in zip(kept, record.objects, strict=True):
            far = [annotation.bbox[axis] + annotation.bbox[axis + 2] == sizes[image_id][axis] for axis in (0, 1)]
            assert all(found.bins[axis + 2] == 999 for axis in (0, 1) if far[axis])
            edges += any(far)
    assert edges == 15
