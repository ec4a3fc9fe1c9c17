"""JSONL lines to records: each rule on its own, with file:line, and nothing changed on the way."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import pytest

from coordexp.coords.codec import pixel_to_bin
from coordexp.data import regions, rules, texts
from coordexp.data.errors import DataError, RecordError
from coordexp.data.records import iter_records, parse_record, read_records
from coordexp.data.regions import ImageScope, read_scope
from coordexp.data.rules import find_problems
from coordexp.data.wire import decode_line
from coordexp.spec import Case, load_cases

CASES = load_cases(Path(__file__).parents[3] / "fixtures/records/records.json").cases
BAD = [case for case in CASES if case.expect]
GOOD = [case for case in CASES if not case.expect]


def title(case: Case) -> str:
    return case.description


def write(folder: Path, *lines: str) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.invariant("DATA-003")
@pytest.mark.invariant("DATA-022")
@pytest.mark.invariant("DATA-023")
@pytest.mark.parametrize("case", BAD, ids=title)
def test_a_bad_line_raises_its_own_rules_with_file_and_line(case: Case, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD[0].input, case.input)
    with pytest.raises(RecordError) as caught:
        read_records(path)
    problems = caught.value.problems
    assert [[problem.rule, problem.finding.pointer] for problem in problems] == case.expect
    for problem, line in zip(problems, str(caught.value).splitlines(), strict=True):
        assert line.startswith(f"{path}:2: {problem.finding.pointer}")
        assert line.endswith(f"{problem.finding.remedy} [{problem.rule}]")


@pytest.mark.invariant("DATA-003")
@pytest.mark.parametrize("case", GOOD, ids=title)
def test_a_good_line_becomes_a_record(case: Case) -> None:
    record = parse_record(case.input.encode(), "train.jsonl:7")
    written = json.loads(case.input)
    assert record.source == "train.jsonl:7"
    assert list(record.images) == written["images"]
    assert (record.width, record.height) == (written["width"], written["height"])
    assert [found.desc for found in record.objects] == [found["desc"] for found in written["objects"]]
    assert (record.summary, dict(record.metadata)) == (written.get("summary"), written.get("metadata", {}))


@pytest.mark.invariant("DATA-004")
@pytest.mark.invariant("DATA-023")
@pytest.mark.parametrize("case", CASES, ids=title)
def test_the_quick_way_accepts_what_the_rules_accept(case: Case) -> None:
    line = case.input.encode()
    assert (decode_line(line, keys_are_unique=True) is None) == (case.expect not in ([], [["duplicate_key", ""]]))
    if case.expect:
        assert decode_line(line) is None


@pytest.mark.invariant("DATA-003")
def test_every_rule_has_a_case_and_every_message_is_its_own() -> None:
    trees = [ast.parse(inspect.getsource(module)) for module in (rules, regions, texts)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("Finding", "DescFault")]
    named = {call.args[0].value for call in found if isinstance(call.args[0], ast.Constant)}
    covered = {rule for case in BAD for rule, _ in case.expect}
    assert covered == named | {"geometry_both", "geometry_missing"}
    messages: dict[str, str] = {}
    for case in BAD:
        for finding in find_problems(case.input.encode()):
            assert messages.setdefault(finding.message, finding.rule) == finding.rule


@pytest.mark.invariant("DATA-003")
def test_a_file_that_cannot_be_read_or_is_empty_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read"):
        read_records(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="holds no records"):
        read_records(write(tmp_path))


@pytest.mark.invariant("DATA-003")
def test_every_problem_of_a_line_is_reported_at_once() -> None:
    line = b'{"images": [], "width": 0, "objects": [{"bbox": 1}], "extra": 1}'
    with pytest.raises(RecordError) as caught:
        parse_record(line, "x.jsonl:1")
    found = {problem.rule for problem in caught.value.problems}
    assert {"images_count", "size_range", "size_missing", "removed_key", "desc_missing", "unknown_key"} <= found


@pytest.mark.invariant("DATA-005")
def test_objects_and_points_stay_in_the_order_they_are_written_in(tmp_path: Path) -> None:
    points = [900, 5, 3, 3, 3, 900, 900, 5, 3, 3]
    objects = [
        {"desc": "z", "poly": [f"<|coord_{k}|>" for k in points]},
        {"desc": "a", "bbox_2d": [f"<|coord_{k}|>" for k in (9, 8, 9, 99)]},
        {"desc": "z", "poly": [f"<|coord_{k}|>" for k in points]},
    ]
    line = json.dumps({"images": ["a.png"], "width": 10, "height": 10, "objects": objects})
    (record,) = read_records(write(tmp_path, line))
    assert [(found.desc, found.kind, list(found.bins)) for found in record.objects] == [
        ("z", "poly", points),
        ("a", "bbox_2d", [9, 8, 9, 99]),
        ("z", "poly", points),
    ]
    assert all(type(k) is int for found in record.objects for k in found.bins)


@pytest.mark.invariant("DATA-005")
def test_pixels_become_bins_axis_by_axis(tmp_path: Path) -> None:
    poly = [0.5, 0, 31.9, 63, 32, 64, 7, 9]
    line = json.dumps({"images": ["a"], "width": 32, "height": 64, "objects": [{"desc": "a", "poly": poly}]})
    (record,) = read_records(write(tmp_path, line))
    expected = tuple(pixel_to_bin(value, (32, 64)[axis % 2]) for axis, value in enumerate(poly))
    assert record.objects[0].bins == expected == (16, 0, 999, 999, 999, 999, 226, 143)


@pytest.mark.invariant("DATA-005")
def test_no_record_is_lost_and_lines_count_from_one(tmp_path: Path) -> None:
    path = write(tmp_path, *[GOOD[0].input] * 5)
    assert [record.source for record in iter_records(path)] == [f"{path}:{number}" for number in range(1, 6)]


@pytest.mark.invariant("DATA-006")
@pytest.mark.parametrize("box", [[0.1, 0.2, 0.5, 1], [0, 0, 0.5, 0.5], [0.0, 0.25, 1.0, 1.0]])
def test_a_box_that_was_divided_before_is_refused(box: list[float]) -> None:
    line = json.dumps({"images": ["a"], "width": 64, "height": 64, "objects": [{"desc": "a", "bbox_2d": box}]})
    with pytest.raises(RecordError, match="already_normalized"):
        parse_record(line.encode(), "x:1")


@pytest.mark.invariant("DATA-006")
@pytest.mark.parametrize("box", [[0, 0, 1, 1], [0, 0, 0.5, 2], [1, 1, 1, 1]])
def test_a_small_pixel_box_is_not_taken_for_a_normalized_one(box: list[float]) -> None:
    line = json.dumps({"images": ["a"], "width": 64, "height": 64, "objects": [{"desc": "a", "bbox_2d": box}]})
    assert parse_record(line.encode(), "x:1").objects[0].desc == "a"


@pytest.mark.invariant("DATA-006")
def test_tokens_are_taken_as_bins_whatever_the_size_of_the_image() -> None:
    tokens = [f"<|coord_{k}|>" for k in (1, 2, 500, 999)]
    for side in (1, 32, 4096):
        line = json.dumps(
            {"images": ["a"], "width": side, "height": side, "objects": [{"desc": "a", "bbox_2d": tokens}]}
        )
        assert parse_record(line.encode(), "x:1").objects[0].bins == (1, 2, 500, 999)


@pytest.mark.invariant("DATA-006")
def test_bins_written_as_plain_numbers_do_not_pass_for_tokens() -> None:
    line = b'{"images": ["a"], "width": 64, "height": 64, "objects": [{"desc": "a", "bbox_2d": [1, 2, 500, 999]}]}'
    with pytest.raises(RecordError, match="outside the image"):
        parse_record(line, "x:1")


@pytest.mark.invariant("DATA-023")
def test_regions_and_absent_categories_are_read_from_the_metadata() -> None:
    region = {"desc": None, "bbox_2d": [1, 2.5, 30, 30]}
    metadata = {"image_id": 7, "ignore": [region, {**region, "desc": "cat"}], "verified_absent": ["dog"]}
    record = {"images": ["a.png"], "width": 64, "height": 64, "objects": []}
    scope = read_scope(parse_record(json.dumps(record | {"metadata": metadata}).encode(), "x:1"))
    assert [found.as_json() for found in scope.ignore] == metadata["ignore"]
    assert scope.verified_absent == {"dog"}
    assert read_scope(parse_record(json.dumps(record).encode(), "x:1")) == ImageScope()
