"""Cooking files as people have them: names, regions to ignore, merged images, dropped and missing ones, by name."""

from __future__ import annotations

import json
import resource
import shutil
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.data.outputs import build_folder
from coordexp.data.records import read_records
from coordexp.data.regions import read_scope
from tests.plugins.found_files import GOOD, Kitchen, check_balance, kitchen

__all__ = ["kitchen"]


@pytest.mark.invariant("DATA-043")
@pytest.mark.parametrize(("case", "desc"), [("a1-nfd-name", "caf\u00e9 cup"), ("b1-newline-name", "red square")])
def test_a_name_is_brought_to_the_text_of_a_desc_and_counted(kitchen: Kitchen, case: str, desc: str) -> None:
    cooked = kitchen.case(case)
    assert (cooked.code, cooked.manifest["adjusted"]["desc_normalized"]) == (0, 1)
    assert "desc_normalized" in cooked.out
    assert [found["desc"] for record in cooked.records for found in record["objects"]] == [desc]


@pytest.mark.invariant("DATA-043")
def test_a_reserved_name_is_refused_where_it_is_used_and_can_be_mapped(kitchen: Kitchen) -> None:
    refused = kitchen.case("a2-reserved-name")
    assert refused.code == 1
    assert "category id 1: '<image> icon' cannot be a desc: desc '<image> icon' holds '<image>'" in refused.err
    (kitchen.folder / "map.json").write_text('{"<image> icon": "picture icon"}')
    assert kitchen.case("a2-reserved-name", "--category-map", str(kitchen.folder / "map.json")).code == 0
    kitchen.add("a.png", [1, 1, 9, 9])
    kitchen.coco["categories"].append({"id": 0, "name": " "})
    assert kitchen.cook().code == 0


@pytest.mark.invariant("DATA-043")
def test_categories_that_become_one_desc_are_named(kitchen: Kitchen) -> None:
    kitchen.coco["categories"] = [{"id": 1, "name": "red cell"}, {"id": 2, "name": "red\u00a0 cell"}]
    kitchen.add("a.png", [1, 1, 9, 9])
    cooked = kitchen.cook()
    assert cooked.code == 0
    assert "warning: 2 categories become the one desc 'red cell': id 1 'red cell', id 2 'red\\xa0 cell'" in cooked.err
    assert kitchen.cook("--strict").code == 1
    (kitchen.folder / "map.json").write_text('{"red cell": "cell", "red\u00a0 cell": "cell"}', encoding="utf-8")
    assert kitchen.cook("--strict", "--category-map", str(kitchen.folder / "map.json")).code == 0


@pytest.mark.invariant("DATA-043")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"cell": "a", "cell": "b"}', "the category 'cell' is written twice"),
        (b'{"cell": "a", "cell ": "b"}', "'cell' and 'cell ' are one name after normalizing"),
        (b'["cell"]', "it is not a category map"),
        (b'{"cell": 3}', "'cell' stands for 3, not a text"),
        (b'{"cell": "<|im_end|>"}', "'cell', mapped to '<|im_end|>', cannot be a desc"),
        (b'{"cel": "a"}', "has no category 'cel'; perhaps 'cell'; it has cell"),
        (b'{"cell": "a",}', "line 1, column 14"),
        ('{"cell": "a"}'.encode("utf-16"), "it is UTF-16"),
    ],
)
def test_a_bad_category_map_is_refused_in_its_own_words(kitchen: Kitchen, content: bytes, says: str) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    (kitchen.folder / "map.json").write_bytes(content)
    cooked = kitchen.cook("--category-map", str(kitchen.folder / "map.json"))
    assert cooked.code == 1
    assert says in cooked.err


@pytest.mark.invariant("DATA-043")
def test_names_of_the_map_match_as_written_or_normalized(kitchen: Kitchen) -> None:
    kitchen.coco["categories"] = [{"id": 1, "name": unicodedata.normalize("NFD", "café")}]
    kitchen.add("a.png", [1, 1, 9, 9])
    (kitchen.folder / "map.json").write_text('\ufeff{"caf\u00e9": "coffee\u200b cup"}', encoding="utf-8")
    cooked = kitchen.cook("--category-map", str(kitchen.folder / "map.json"))
    assert cooked.manifest["descs"] == {"coffee cup": 1}


@pytest.mark.invariant("DATA-044")
def test_a_crowd_becomes_a_region_of_the_cooked_image_and_is_counted(kitchen: Kitchen) -> None:
    cooked = kitchen.case("d1-ignore-region", "--max-pixels", "4096")
    (record,) = read_records(cooked.folder / "records.jsonl")
    (region,) = read_scope(record).ignore
    assert (len(record.objects), region.desc, region.box) == (1, "cell", (27.5, 27.5, 57.5, 57.5))
    assert cooked.manifest["objects"]["ignored"] == {"crowd": 1, "ignore": 0}
    check_balance(cooked.manifest)


@pytest.mark.invariant("DATA-044")
def test_lvis_files_say_what_was_looked_for(kitchen: Kitchen) -> None:
    kitchen.coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(["cell", "cat", "dog"], 1)]
    kitchen.add("a.png", [1, 1, 9, 9])["not_exhaustive_category_ids"] = [1, 2]
    kitchen.coco["images"][0]["neg_category_ids"] = [3.0]
    kitchen.add("b.png", [1, 1, 9, 9])
    kitchen.cook()
    first, second = (read_scope(record) for record in read_records(kitchen.folder / "out0/records.jsonl"))
    assert [(region.desc, region.box) for region in first.ignore] == [
        ("cat", (0, 0, 64, 64)),
        ("cell", (0, 0, 64, 64)),
    ]
    assert (first.verified_absent, second.verified_absent) == (frozenset({"dog"}), frozenset())
    (kitchen.folder / "map.json").write_text('{"cell": "thing", "cat": "animal", "dog": "animal"}')
    mapped = kitchen.cook("--category-map", str(kitchen.folder / "map.json"))
    assert [record["metadata"]["verified_absent"] for record in mapped.records] == [[], []]
    del kitchen.coco["images"][0]["neg_category_ids"]
    assert "verified_absent" not in kitchen.cook().records[0]["metadata"]


@pytest.mark.invariant("DATA-044")
def test_objects_without_area_in_bins_are_counted(kitchen: Kitchen) -> None:
    cooked = kitchen.case("e4-no-area-in-bins", "--max-pixels", "3100000")
    assert (cooked.code, cooked.manifest["adjusted"]["no_area_in_bins"]) == (0, 1)
    assert "no_area_in_bins" in cooked.out


@pytest.mark.invariant("DATA-045")
def test_one_file_under_two_ids_is_one_record_with_all_objects(kitchen: Kitchen) -> None:
    cooked = kitchen.case("h1-one-file-two-ids")
    (record,) = cooked.records
    assert (len(record["objects"]), record["metadata"]) == (3, {"image_id": 1, "image_ids": [1, 2]})
    assert cooked.manifest["adjusted"]["image_merged"] == 1
    check_balance(cooked.manifest)


@pytest.mark.invariant("DATA-045")
def test_the_same_object_of_both_ids_is_kept_once(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    kitchen.add("./a.png", [1, 1, 9, 9], [20, 20, 9, 9])
    cooked = kitchen.cook()
    assert (cooked.manifest["objects"]["kept"], cooked.manifest["objects"]["dropped"]["duplicate"]) == (2, 1)


@pytest.mark.invariant("DATA-045")
def test_one_file_of_two_sizes_is_refused_with_both_ids(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    kitchen.add("a.png", [1, 1, 9, 9], size=(64, 32))
    cooked = kitchen.cook()
    assert cooked.code == 1
    assert "image ids 1 and 2 are one file, 'a.png', of 64x64 and of 64x32" in cooked.err


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize("case", ["j1-coco-url", "j2-bool-crowd", "j3-annotation-ids", "j4-bom"])
def test_files_in_the_habits_of_other_tools_are_read(kitchen: Kitchen, case: str) -> None:
    cooked = kitchen.case(case)
    assert (cooked.code, cooked.manifest["records"]["kept"]) == (0, 1)
    assert cooked.manifest["objects"]["kept"] == cooked.manifest["objects"]["input"]


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize("what", ["image ids", "category ids", "file names", "names"])
def test_forty_thousand_repeats_take_linear_time(kitchen: Kitchen, what: str) -> None:
    count = 40_000
    kitchen.add("a.png", [1, 1, 9, 9])
    first, rest = kitchen.coco["images"][0], range(2, count)
    if what == "image ids":
        kitchen.coco["images"] += [first | {"id": min(number, count - 2)} for number in rest]
    elif what == "file names":
        kitchen.coco["images"] += [first | {"id": number} for number in rest]
    else:
        ids = [min(number, count - 2) if what == "category ids" else number for number in rest]
        kitchen.coco["categories"] += [{"id": number, "name": "cell"} for number in ids]
    start = time.monotonic()
    cooked = kitchen.cook()
    assert time.monotonic() - start < 2
    assert cooked.code == (1 if what in ("image ids", "category ids") else 0)
    assert len(cooked.err) < 1000


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize(
    "entry",
    [
        {"coco_url": "http://host/val/a%20b.png?size=1#x"},
        {"file_name": None, "flickr_url": "https://host/a%20b.png"},
        {"file_name": "", "coco_url": "https://host/o/train%2Fa%20b.png?alt=media"},
        {"file_name": "https://host/x/a%20b.png"},
        {"file_name": "sub\\..\\a b.png"},
        {"file_name": "a%20b.png"},
        {"file_name": " a b.png\n"},
        {"file_name": "sub\\..\\a%20b.png "},
    ],
)
def test_an_image_is_found_by_its_address_or_with_backslashes(kitchen: Kitchen, entry: dict[str, Any]) -> None:
    kitchen.add("a b.png", [1, 1, 9, 9])
    (kitchen.folder / "images/sub").mkdir()
    del kitchen.coco["images"][0]["file_name"]
    kitchen.coco["images"][0].update(entry)
    assert kitchen.cook().code == 0


@pytest.mark.invariant("DATA-042")
def test_names_in_other_spellings_of_unicode_and_absolute_ones_are_found(kitchen: Kitchen) -> None:
    kitchen.add(unicodedata.normalize("NFD", "é.png"), [1, 1, 9, 9])
    kitchen.coco["images"][0]["file_name"] = unicodedata.normalize("NFC", "é.png")
    assert kitchen.cook().code == 0
    kitchen.add("b.png", [1, 1, 9, 9])["file_name"] = str(kitchen.folder / "images/b.png")
    assert kitchen.cook().manifest["records"]["kept"] == 2


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize("name", ["a%20b.png", " a b.png", "a\\b.png"])
def test_a_file_that_is_called_as_written_comes_first(kitchen: Kitchen, name: str) -> None:
    for other in ("a b.png", "a/b.png"):
        path = kitchen.folder / "images" / other
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    kitchen.add(name, [1, 1, 9, 9])
    assert kitchen.cook().code == 0


@pytest.mark.invariant("DATA-042")
def test_an_escaped_name_of_another_form_of_unicode_is_found(kitchen: Kitchen) -> None:
    kitchen.add(unicodedata.normalize("NFD", "été.png"), [1, 1, 9, 9])
    kitchen.coco["images"][0]["file_name"] = "%C3%A9t%C3%A9.png"
    assert kitchen.cook().code == 0


@pytest.mark.invariant("DATA-049")
def test_a_name_of_another_case_is_advised_before_another_folder(kitchen: Kitchen) -> None:
    for folder in ("images", "copies"):
        kitchen.add(f"../{folder}/a.png", [1, 1, 9, 9])
    (kitchen.folder / "images/a.png").rename(kitchen.folder / "images/A.PNG")
    kitchen.coco["images"] = [kitchen.coco["images"][0] | {"file_name": "a.png"}]
    folder = kitchen.folder
    advice = "'A.PNG' is there in place of 'a.png': write file_name as the file is called; or --images"
    assert (
        f"images are missing under {folder}/images: {advice} {folder}/copies would find 1 of the 1"
        in kitchen.cook().err
    )


@pytest.mark.invariant("DATA-049")
def test_an_image_outside_the_folder_is_refused_with_the_flag_to_change(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    (kitchen.folder / "elsewhere").mkdir()
    shutil.move(kitchen.folder / "images/a.png", kitchen.folder / "elsewhere/a.png")
    (kitchen.folder / "images/a.png").symlink_to("../elsewhere/a.png")
    cooked = kitchen.cook()
    assert cooked.code == 1
    assert "let --images name a folder that holds it" in cooked.err
    assert "ROOT_IMAGE_DIR" not in cooked.err


@pytest.mark.invariant("DATA-048")
def test_dropped_files_are_named(kitchen: Kitchen) -> None:
    cooked = kitchen.case("j11-unnamed-drops")
    assert cooked.code == 0
    named = cooked.manifest["dropped_examples"]
    assert {reason: [(found["file"], found["image_id"]) for found in named[reason]] for reason in named} == {
        "missing_image": [("gone.png", 2)],
        "not_an_image": [("text.png", 3)],
    }
    assert "dropped, missing_image, image id 2: gone.png does not exist" in cooked.err
    assert "warning: 2 of 3 records (67%) are dropped, most of them as missing_image (1)" in cooked.err


@pytest.mark.invariant("DATA-048")
def test_the_manifest_names_twenty_files_of_a_reason_wherever_the_folder_lies(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    kitchen.coco["images"] += [GOOD["images"][0] | {"id": 10 + k, "file_name": f"gone{k}.png"} for k in range(30)]
    cooked = kitchen.cook()
    assert [found["file"] for found in cooked.manifest["dropped_examples"]["missing_image"]] == [
        f"gone{k}.png" for k in range(20)
    ]
    assert str(kitchen.folder) not in (cooked.folder / "manifest.json").read_text()
    assert "dropped, missing_image: 27 more; manifest.json names the first 20" in cooked.err


@pytest.mark.invariant("DATA-049")
@pytest.mark.parametrize(
    ("names", "images", "says"),
    [
        ("images/a.png", "images/images", "--images {0}/images would find 2 of the 2"),
        ("a.png", ".", "--images {0}/images/images would find 2 of the 2"),
        ("a.png", "empty", "--images {0}/images/images would find 2 of the 2"),
        ("data/set/a.png", "images/images", "'a.png' is there: remove 'data/set/' from file_name"),
        ("C:\\data\\a.png", "images/images", "'a.png' is there: remove 'C:/data/' from file_name"),
        ("a.JPG", "images/images", "'a.png' is there in place of 'a.JPG'"),
    ],
)
def test_the_folder_that_would_have_worked_is_named(kitchen: Kitchen, names: str, images: str, says: str) -> None:
    for letter in "ab":
        kitchen.add(f"images/{letter}.png", [1, 1, 9, 9])
        kitchen.coco["images"][-1]["file_name"] = names.replace("a.", f"{letter}.")
    (kitchen.folder / "empty").mkdir()
    cooked = kitchen.cook(images=kitchen.folder / images)
    assert cooked.code == 1
    assert "no record is left to write. Of 2 images: 2 missing_image" in cooked.err
    assert "missing_image, image id 1" in cooked.err
    assert str(kitchen.folder) in cooked.err
    assert says.format(kitchen.folder) in cooked.err


@pytest.mark.invariant("DATA-049")
def test_paths_are_printed_as_they_are(kitchen: Kitchen, tmp_path: Path) -> None:
    folder = tmp_path / "set [v2] été [bold]"
    folder.mkdir()
    kitchen.folder = folder
    cooked = kitchen.cook(content=b"[", images=folder)
    assert cooked.err.startswith(f"cook: {folder}/annotations.json: ")


@pytest.mark.invariant("DATA-011")
@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("file", "file: is a file, not a folder"),
        ("file/out", "file is a file, not a folder"),
        ("/proc/cooked", "/proc/cooked: cannot be written into (No such file or directory)"),
        ("n" * 300, "cannot be written into (File name too long)"),
        ("images", "images: exists and is not an empty folder"),
    ],
)
def test_a_target_that_cannot_be_made_is_told_before_anything_is_read(kitchen: Kitchen, out: str, says: str) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    (kitchen.folder / "file").touch()
    cooked = kitchen.run(kitchen.folder / "absent.json", kitchen.folder / "images", "--out", str(kitchen.folder / out))
    assert cooked.code == 1
    assert says in cooked.err
    assert cooked.err.count("\n") == 1


@pytest.mark.invariant("DATA-011")
@pytest.mark.parametrize("room", [0, 200, 4000])
def test_a_disk_that_takes_no_more_is_one_message_and_nothing_is_left(kitchen: Kitchen, room: int) -> None:
    """Played by the limit on a file's size, at which the system refuses as it does on a full disk."""
    kitchen.add("a.png", [1, 1, 9, 9], size=(300, 300))
    Image.effect_noise((300, 300), 90).convert("RGB").save(kitchen.folder / "images/a.png")
    path = kitchen.folder / "annotations.json"
    path.write_text(json.dumps(kitchen.coco))
    before = sorted(kitchen.folder.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        cooked = kitchen.run(path, kitchen.folder / "images")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cooked.code == 1
    assert "could not be written (File too large); nothing of it is left" in cooked.err
    assert sorted(kitchen.folder.iterdir()) == before


@pytest.mark.invariant("DATA-011")
def test_a_target_with_a_long_name_is_made(tmp_path: Path) -> None:
    with build_folder(tmp_path / ("é" * 127)) as folder:
        (folder / "a").touch()
    assert (tmp_path / ("é" * 127) / "a").is_file()
