"""What an annotation file may be: another file, broken JSON, another form, a field that holds what it may not."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.plugins.found_files import GOOD, Kitchen, kitchen

__all__ = ["kitchen"]

VOC = b"<annotation>\n<folder>x</folder></annotation>"


def changed(where: str, key: str, value: Any) -> bytes:
    """The good file with one entry's key changed."""
    coco = json.loads(json.dumps(GOOD))
    coco[where][0][key] = value
    return json.dumps(coco).encode()


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize(
    ("where", "key", "value", "ignored"),
    [
        ("annotations", "iscrowd", 1.0, True),
        ("annotations", "iscrowd", True, True),
        ("annotations", "iscrowd", None, False),
        ("annotations", "iscrowd", 0.0, False),
        ("annotations", "ignore", True, True),
        ("annotations", "ignore", 0, False),
        ("annotations", "id", None, False),
        ("annotations", "id", "x-1", False),
        ("annotations", "id", {"a": 1}, False),
        ("images", "width", 64.0, False),
        ("images", "id", 1.0, False),
        ("categories", "id", 1.0, False),
        ("annotations", "image_id", 1.0, False),
    ],
)
def test_a_value_in_another_notation_is_read(kitchen: Kitchen, where: str, key: str, value: Any, ignored: bool) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook("--background", content=changed(where, key, value))
    assert cooked.code == 0
    assert cooked.manifest["objects"]["kept"] == (0 if ignored else 1)
    assert cooked.records[0]["metadata"]["image_id"] == 1
    assert isinstance(cooked.records[0]["metadata"]["image_id"], int)


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize(
    ("where", "key", "value", "says"),
    [
        ("annotations", "bbox", None, "annotations[0].bbox (annotation id 1, image id 1): null. Write [x, y"),
        ("annotations", "bbox", [1, 2, 3], "it is a list of four numbers, got 3: [1, 2, 3]"),
        ("annotations", "bbox", {"x": 1}, 'it is a list of four numbers, got an object {"x": 1}'),
        ("annotations", "bbox", [1, 2, "30", 4], "annotations[0].bbox[2] (annotation id 1, image id 1): a number in"),
        (
            "annotations",
            "iscrowd",
            2,
            "annotations[0].iscrowd (annotation id 1, image id 1): it is 0, 1, true or false",
        ),
        ("annotations", "iscrowd", "0", 'true or false, got the text "0"'),
        ("annotations", "image_id", None, "annotations[0].image_id (annotation id 1): an id is an integer or a text"),
        ("annotations", "category_id", True, "an id is an integer or a text, got the boolean true"),
        ("images", "id", 1.5, "images[0].id (image id 1.5): an id is an integer or a text, got 1.5"),
        ("images", "width", "64", 'images[0].width (image id 1): a size is an integer, got the text "64"'),
        ("images", "height", None, "images[0].height (image id 1): null"),
        ("images", "height", 0, "a size is from 1 to 1000000000, got 0"),
        ("images", "height", 10**400, "a size is from 1 to 1000000000, got 1000"),
        ("annotations", "bbox", [1, 2, 10**400, 4], "annotations[0].bbox[2] (annotation id 1, image id 1): a number"),
        ("annotations", "bbox", [1, 2, 1e308, 4], "annotations[0].bbox[2] (annotation id 1, image id 1): a number"),
        ("images", "file_name", ".", "image id 1: file_name '.' is the image folder itself"),
        ("images", "file_name", "/elsewhere/x/a.png", "'a.png' is there: remove '/elsewhere/x/' from file_name"),
        ("images", "file_name", None, "images[0].file_name (image id 1): missing or blank, and no coco_url stands in"),
        ("images", "file_name", 7, "images[0].file_name (image id 1): it is a text, got 7"),
        ("images", "file_name", "http://host/", '"http://host/" names no file'),
        ("images", "neg_category_ids", 1, "images[0].neg_category_ids (image id 1): it is a list of ids, got 1"),
        ("categories", "name", 5, "categories[0].name (category id 1): a name is a text, got 5"),
        ("annotations", "image_id", "1", 'annotations[0].image_id is the text "1", and the id in images the number'),
        ("categories", "id", "1", "annotations[0].category_id is the number 1, and the id in categories the text"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_holds(
    kitchen: Kitchen, where: str, key: str, value: Any, says: str
) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook(content=changed(where, key, value))
    assert cooked.code == 1
    assert says in cooked.err


@pytest.mark.invariant("DATA-042")
def test_a_polygon_does_not_stand_in_for_a_box(kitchen: Kitchen) -> None:
    coco = json.loads(changed("annotations", "segmentation", [[1, 1, 9, 1, 9, 9]]))
    del coco["annotations"][0]["bbox"]
    cooked = kitchen.cook(content=json.dumps(coco).encode(), images=kitchen.folder)
    assert "annotations[0].bbox (annotation id 1, image id 1): missing, though there is a segmentation" in cooked.err


@pytest.mark.invariant("DATA-042")
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"images": [], "categories": []}, "annotations: missing; the file has 'images', 'categories'"),
        ({"shapes": [], "imagePath": "a.png"}, "it looks like LabelMe's form for one image"),
        (
            {**GOOD, "annotations": [{"id": 4, "image_id": 1, "caption": "a cell"}] * 2},
            "annotations[0] (annotation id 4, image id 1): it has no bbox; it looks like COCO's captions. Name",
        ),
        (
            {"images": [], "annotations": [{"id": 4, "image_id": 1, "caption": "a cell"}]},
            "categories: missing; the file has 'images', 'annotations'; it looks like COCO's captions",
        ),
        (
            {**GOOD, "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]},
            "annotations[0] (image id 1): it has no bbox; it looks like COCO's panoptic form (segments_info)",
        ),
        ([], "a list of 0 entries"),
        ([{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}], "COCO's results format"),
        (GOOD["annotations"], "a list of annotations alone"),
        ("text", 'the file holds the text "text"'),
        ({**GOOD, "images": {"1": {}}}, 'images: it is a list, got an object {"1": {}}'),
        ({**GOOD, "images": ["a.png"]}, 'images[0]: it is an object, got the text "a.png"'),
        ({**GOOD, "images": GOOD["images"] * 2}, "images holds id 1 twice, in images[0] and images[1]"),
        ({**GOOD, "categories": GOOD["categories"] * 2}, "categories holds id 1 twice"),
        ({**GOOD, "categories": [*GOOD["categories"], {"id": "2", "name": "x"}]}, "ids are all numbers or all texts"),
    ],
)
def test_another_form_than_coco_is_told_by_name(kitchen: Kitchen, payload: Any, says: str) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook(content=json.dumps(payload).encode())
    assert cooked.code == 1
    assert says in cooked.err


@pytest.mark.invariant("DATA-040")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(GOOD).encode("utf-16"), "it is UTF-16; JSON is UTF-8: save the file as UTF-8"),
        (json.dumps(GOOD).encode("utf-16-le"), "it is UTF-16 without a BOM"),
        (json.dumps(GOOD).encode("utf-16-be"), "it is UTF-16 without a BOM"),
        (json.dumps(GOOD).encode("utf-32"), "it is UTF-32;"),
        (json.dumps(GOOD).encode("utf-32-le"), "it is UTF-32 without a BOM"),
        (json.dumps(GOOD).encode("utf-32-be"), "it is UTF-32 without a BOM"),
        (b'{"info": "caf\xe9"}', "line 1, column 14 (byte 13) holds 0xe9, which is not UTF-8 (Latin-1"),
        (gzip.compress(b"{}", mtime=0), "it is a gzip archive"),
        (b"PK\x03\x04rest", "it is a zip archive"),
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \n", "the file holds nothing but blanks"),
        (b"\0\0\0\0\0\0", "begins with zero bytes"),
        (VOC, "it is XML, as Pascal VOC writes it"),
        (b"<!DOCTYPE html><html></html>", "it is an HTML page"),
        (b"0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.1 0.1\n", "lines of numbers, as YOLO writes them"),
        (b"file,x,y,w,h\na.png,1,2,3,4\n", "a table of separated values (CSV)"),
        (b'"file","x"\n"a.png",1\n', "a table of separated values (CSV)"),
        (b'"bbox[0]" ;"the ""x"""\n1;2\n', "a table of separated values (CSV)"),
        (b"\x93NUMPY\x01\0v\0", "it is a NumPy array"),
        (b"\x0a\x93\x01\x02\x00\x01", "it is binary data and no text, not COCO-style"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "it is a PNG image"),
    ],
)
def test_a_file_that_is_no_json_is_told_what_it_is(kitchen: Kitchen, content: bytes, says: str) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook(content=content)
    assert cooked.code == 1
    assert says in cooked.err


@pytest.mark.invariant("DATA-041")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{\n"a": [1, NaN]}', "line 2, column 10 (byte 11): NaN is not a number in JSON"),
        (b'{"a": -Infinity}', "column 7 (byte 6): -Infinity is not a number"),
        (b'{"NaN": "NaN, \\"NaN", "a": NaN}', "column 28 (byte 27): NaN"),
        (b'{"a": "\\ud800l"}', "column 8 (byte 7): \\ud800 is half of a surrogate pair"),
        (b'{"a": "\\ud83d\\ude00 \\\\ud800 \\udc00"}', "column 29 (byte 28): \\udc00 is half"),
        ('{"é": NaN}'.encode(), "column 7 (byte 7): NaN"),
        (b'\xef\xbb\xbf{"a": NaN}', "line 1, column 7 (byte 9): NaN"),
        (b'{"a": [1, 1e999]}', "column 11 (byte 10): 1e999 is larger than any number"),
        (b'{"a": None}', "None is Python, in JSON it is null"),
        (b'{"images": [', "the file ends in the middle, so it was cut short"),
        (b'{"images": "abc', "the file ends in the middle"),
        (b'{"a": [1, 2,]}', "a comma before ']' is not JSON"),
        (b"{'a': 1}", "texts are written in double quotes"),
        (b'{"images": []}\n{"images": []}', "line 2, column 1 (byte 15): a second JSON value begins here"),
        (b'{"images": [], "objects": []}\n{}', "Records that are cooked already are trained on as they are"),
        (b'{"images": []}\n\0\0', "line 2, column 1 (byte 15): zero bytes follow the end of the JSON value"),
        (b'{"images": []};', "column 15 (byte 14): text follows the end of the JSON value"),
        (b'{"a": 1 "b": 2}', "column 9 (byte 8): not JSON"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_broken_json_is_refused_with_line_column_and_byte(kitchen: Kitchen, content: bytes, says: str) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook(content=content)
    assert cooked.code == 1
    assert says in cooked.err
    assert cooked.err.startswith(f"cook: {kitchen.folder}/annotations.json: ")


@pytest.mark.invariant("DATA-041")
@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("j5-utf16", "it is UTF-16"),
        ("j6-nan", "line 23, column 10 (byte 203): NaN is not a number"),
        ("j10-lone-surrogate", "line 3, column 37 (byte 223): \\ud800 is half of a surrogate pair"),
    ],
)
def test_the_cases_are_refused_with_their_place(kitchen: Kitchen, case: str, says: str) -> None:
    cooked = kitchen.case(case)
    assert cooked.code == 1
    assert says in cooked.err


@pytest.mark.invariant("DATA-041")
def test_a_list_that_is_written_twice_is_refused(kitchen: Kitchen) -> None:
    kitchen.add("a.png", [1, 1, 9, 9])
    kitchen.coco["info"] = {"images": 3, "text": '"images": ['}
    assert kitchen.cook().code == 0
    cooked = kitchen.cook(content=json.dumps(kitchen.coco).encode()[:-1] + b',\n "images" : []}')
    assert cooked.code == 1
    assert "line 2, column 2" in cooked.err
    assert "'images' is written a second time" in cooked.err


@pytest.mark.invariant("DATA-041")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            '"bbox": [10, 10, 20, 20]',
            '"bbox": [10, 10, 20, 20],\n "bbox" : [1, 1, 2, 2]',
            "line 2, column 2 (byte 159): 'bbox' is written a second time in one entry of annotations. Keep one of",
        ),
        ('"width": 64', '"width": 64, "wi\\u0064th": 32', "'width' is written a second time in one entry of images"),
        ('"name": "cell"', '"name": "cell", "x": [{"a": {"b": 1, "b": 1}}]', "'b' is written a second time in one"),
        ('"name": "cell"', '"name": "cell", "x": ' + "9" * 5000 + ', "x": 1', "'x' is written a second time"),
    ],
)
def test_a_key_that_an_entry_has_twice_is_refused(kitchen: Kitchen, old: str, new: str, says: str) -> None:
    kitchen.add("a.png")
    cooked = kitchen.cook(content=json.dumps(GOOD).replace(old, new).encode())
    assert cooked.code == 1
    assert says in cooked.err


@pytest.mark.invariant("DATA-041")
@pytest.mark.parametrize(
    "more", ['"info": {"a": 1, "a": 2}', '"x": "\\"a\\": 1, \\"a\\": ", "a": 3', '"x": ' + "9" * 5000]
)
def test_keys_that_are_not_read_and_texts_like_keys_are_let_through(kitchen: Kitchen, more: str) -> None:
    kitchen.add("a.png")
    assert kitchen.cook(content=(json.dumps(GOOD)[:-1] + f", {more}}}").encode()).code == 0
