"""JSONL lines to records: each rule on its own, with file:line, and nothing changed on the way."""

from __future__ import annotations

import ast
import gzip
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
from coordexp.data.survey import survey_file
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


RECORD = {"images": ["a.png"], "width": 64, "height": 64, "objects": []}
PLAIN = json.dumps(RECORD).encode() + b"\n"
COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
OTHER_FORMS = {
    "UTF-16": (PLAIN.decode().encode("utf-16"), "it is UTF-16; JSON is UTF-8. Save the file as UTF-8."),
    "UTF-16-bare": (PLAIN.decode().encode("utf-16-be"), "it is UTF-16 without a BOM; JSON is UTF-8. Save the file"),
    "gzip": (gzip.compress(PLAIN), "it is a gzip archive, not JSONL records. Unpack it: gunzip -k."),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the file itself, not JSONL"),
    "BOM": (b"\xef\xbb\xbf" + PLAIN * 2, "it begins with a byte order mark (UTF-8 with BOM). Save it as UTF-8 without"),
    "CR": (PLAIN.replace(b"\n", b"\r") * 2, "its lines end in CR alone, so all of it is one line. Write it with"),
    "pretty": (json.dumps(RECORD, indent=1).encode() * 2, "it is pretty-printed JSON, and a record is one line. Write"),
    "pretty-large": (json.dumps(RECORD | {"summary": "a" * (1 << 20)}, indent=1).encode(), "it is pretty-printed JSON"),
    "list": (json.dumps([RECORD] * 2, indent=1).encode(), "it is one JSON list over several lines. Write each record"),
    "COCO": (json.dumps(COCO).encode(), "it holds COCO annotations, not JSONL records. Cook them with `python -m"),
    "COCO-pretty": (json.dumps(COCO, indent=1).encode(), "it holds COCO annotations, not JSONL records. Cook them"),
    "CSV": (b"file,x1,y1,x2,y2\na.png,1,1,5,5\n", "it is a table of separated values (CSV), not JSONL records."),
}


@pytest.mark.invariant("DATA-095")
@pytest.mark.parametrize(("content", "words"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_a_file_that_is_no_jsonl_is_one_problem_that_names_it(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    (problem,) = survey_file(path).problems
    assert str(problem).startswith(f"{path}: {words}")
    with pytest.raises(RecordError) as caught:
        read_records(path)
    assert str(caught.value) == str(problem)


@pytest.mark.invariant("DATA-095")
@pytest.mark.parametrize(
    "first",
    [
        '{"images": ["a.png"], "width": 64,',
        '{"images": ["a.png"], "width": 64, "height": 64, "objects": [], "annotations": [{"id": 1}]}',
        '{"images": ["a.png"], "width": 64, "height": 64, "metadata": {"annotations": [{"id": 1}]}}',
        '{"images": ["a.png',
        "[]",
        "",
        "[" * 100_000,
    ],
    ids=["cut", "spare-key", "metadata", "cut-text", "list", "empty", "deep"],
)
def test_a_bad_first_line_of_a_jsonl_is_told_with_its_line(tmp_path: Path, first: str) -> None:
    path = write(tmp_path, first, json.dumps(RECORD))
    survey = survey_file(path)
    assert {problem.where for problem in survey.problems} == {f"{path}:1"}
    assert (survey.lines, survey.records) == (2, 1)


@pytest.mark.invariant("DATA-095")
def test_a_file_in_order_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordexp.data.records.file_finding", None)
    path = write(tmp_path, json.dumps(RECORD))
    assert len(read_records(path)) == survey_file(path).records == 1


@pytest.mark.invariant("DATA-003")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": "caf\xe9"}', "byte 11 of the line is 0xe9, which is not UTF-8 (Latin-1 or Windows-1252 perhaps)"),
        (b'{"a": "x\\ud800"}', r"\ud800 is half of a surrogate pair, which is no character"),
        (b'{"a" 1}', "not one JSON value: Expecting ':' delimiter at column 6"),
        (b'{"a": NaN}', "not one JSON value: NaN is not a JSON number"),
    ],
    ids=["latin-1", "surrogate", "syntax", "nan"],
)
def test_broken_json_is_told_without_the_words_of_a_decoder(line: bytes, words: str) -> None:
    (finding,) = find_problems(line)
    assert (finding.rule, finding.message) == ("invalid_json", words)
