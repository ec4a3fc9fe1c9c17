"""Reading one YAML file: duplicate keys, odd keys and odd scalars are refused, and lines are kept."""

from __future__ import annotations

import pytest
import yaml

from coordexp.config import ConfigError, load_config
from coordexp.config.problems import render_path
from tests.unit.config.minimal import STAGE1, problems_of, write

BODY = yaml.safe_dump(STAGE1)
CONTROL = "control characters are not allowed" if hasattr(yaml, "CSafeLoader") else "special characters are not allowed"


@pytest.mark.invariant("CONFIG-001")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("debug: {enabled: false}\ndebug: {enabled: true}\n", "run.yaml:2: debug: written twice; first at line 1"),
        ("debug:\n  enabled: false\n  enabled: true\n", "run.yaml:3: debug.enabled: written twice; first at line 2"),
        ("debug: {enabled: false, enabled: false}\n", "run.yaml:1: debug.enabled: written twice"),
    ],
    ids=["section", "nested", "flow"],
)
def test_a_key_written_twice_is_refused(tmp_path, text, problem):
    path = tmp_path / "run.yaml"
    path.write_text(text + BODY)
    assert any(line.startswith(problem) for line in problems_of(path))


@pytest.mark.invariant("CONFIG-001")
def test_a_key_written_twice_in_a_parent_is_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("debug:\n  enabled: false\n  enabled: true\n")
    path = tmp_path / "run.yaml"
    path.write_text("extends: base.yaml\n" + BODY)
    assert problems_of(path) == ["base.yaml:3: debug.enabled: written twice; first at line 2; keep one"]


@pytest.mark.invariant("CONFIG-001")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("debug: &d {enabled: false}\nrlhf: {<<: *d}\n", "use extends"),
        ("1: {}\n", "keys are text"),
        ("? [a, b]\n: 1\n", "a list or mapping is no text"),
        ("custom: {extra: {when: 2026-01-01}}\n", "has the YAML type timestamp; quote it"),
        ("custom: {extra: {time: 12:30}}\n", "no plain decimal integer"),
        ("custom: {extra: {mode: 0755}}\n", "no plain decimal integer"),
        ("custom: {extra: {weight: .nan}}\n", "no finite decimal number"),
        ("custom: {extra: {weight: -.inf}}\n", "no finite decimal number"),
        ("custom: {extra: &e {again: *e}}\n", "holds itself through a YAML alias"),
        ("debug: [\n", "no valid YAML"),
        ("- debug\n", "holds no mapping"),
        ("", "holds no mapping"),
    ],
)
def test_what_a_reader_could_take_two_ways_is_refused(tmp_path, text, says):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert any(says in line for line in problems_of(path))


def test_an_alias_gives_both_places_the_same_value(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        BODY.replace("dataset:\n  - dummy\n  val_dataset:\n  - dummy", "dataset: &d [dummy]\n  val_dataset: *d")
    )
    config = load_config(path)
    assert config.data.dataset == config.data.val_dataset == ("dummy",)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert problems_of(path) == ["run.yaml: cannot be read: not UTF-8 text"]


def test_a_missing_file_is_one_problem(tmp_path):
    assert problems_of(tmp_path / "nowhere.yaml") == ["nowhere.yaml: cannot be read: No such file or directory"]


@pytest.mark.invariant("CONFIG-001")
@pytest.mark.parametrize("begin", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("character", ["\0", "\a", "\f", "\x1c", "\x7f", "\x84", "\ufffe"], ids=lambda c: f"{ord(c):x}")
def test_a_control_character_is_told_at_its_line(tmp_path, character, begin):
    path = tmp_path / "run.yaml"
    path.write_text(f"{begin}debug:\n  enabled: false\n  output_dir: a{character}b\n", encoding="utf-8")
    code = f"#x{ord(character):04x}"
    assert problems_of(path) == [f"run.yaml:3: no valid YAML: unacceptable character {code}: {CONTROL}"]


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("data", "dataset", 0), "data.dataset[0]"),
        (("a.b", 3, "c"), '"a.b"[3].c'),
        (("c", ""), 'c.""'),
        (("a\nb",), '"a\\nb"'),
    ],
)
def test_a_path_shows_where_its_keys_end(path, text):
    assert render_path(path) == text


@pytest.mark.invariant("CONFIG-015")
def test_a_profile_at_its_former_place_is_refused_by_name(tmp_path):
    path = tmp_path / "configs" / "stage2_ab" / "smoke" / "run.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (caught.value.source, len(caught.value.problems)) == (str(path), 1)


@pytest.mark.invariant("CONFIG-002")
def test_links_that_go_round_and_names_without_end_are_one_problem(tmp_path):
    (tmp_path / "one.yaml").symlink_to("two.yaml")
    (tmp_path / "two.yaml").symlink_to("one.yaml")
    assert problems_of(tmp_path / "one.yaml") == ["one.yaml: cannot be read: Too many levels of symbolic links"]
    child = write(tmp_path, {**STAGE1, "extends": "one.yaml"}, "run.yaml")
    assert [line.split(": ", 2)[1:] for line in problems_of(child)] == [["extends", "no such file: one.yaml"]]
    long = "a" * 5000
    child = write(tmp_path, {**STAGE1, "extends": long}, "run.yaml")
    assert [line.split(": ", 2)[1:] for line in problems_of(child)] == [["extends", f"no such file: {long}"]]
    assert problems_of(tmp_path / long)[0].endswith(": cannot be read: File name too long")


def test_underscores_in_numbers_are_read(tmp_path):
    path = write(tmp_path, STAGE1)
    path.write_text(path.read_text().replace("global_max_length: 4000", "global_max_length: 4__000"))
    path.write_text(path.read_text().replace("run_name: run", "run_name: run\n  num_train_epochs: 1__0.5"))
    config = load_config(path)
    assert (config.global_max_length, config.training.num_train_epochs) == (4000, 10.5)


@pytest.mark.invariant("CONFIG-001")
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BODY.replace("\n", "\r\n").encode())
    config = load_config(path)
    assert config == load_config(write(tmp_path, STAGE1, "plain.yaml"))
    assert config.sources.origins["training.run_name"] == f"{path}:14"


def multiplied(levels):
    """YAML in which each level names the one before nine times: nine to the power of `levels` values."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "custom:\n  extra:\n" + "".join(f"    {row}\n" for row in rows)


@pytest.mark.invariant("CONFIG-001")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (multiplied(6), "holds more than 100000 values; YAML aliases (*) multiply what they name"),
        (multiplied(9), "holds more than 100000 values; YAML aliases (*) multiply what they name"),
        (f"debug: {'[' * 60000}{']' * 60000}\n", "is nested deeper than 100 levels"),
        (f"debug: {'{a: ' * 101}1{'}' * 101}\n", "is nested deeper than 100 levels"),
    ],
    ids=["some aliases", "aliases", "lists", "mappings"],
)
def test_a_file_that_would_fill_the_memory_is_refused_at_once(tmp_path, text, says):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    (problem,) = problems_of(path)
    assert says in problem
    assert problem.startswith("run.yaml:")


@pytest.mark.invariant("CONFIG-001")
def test_aliases_within_reason_are_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(multiplied(4))
    assert not any("more than" in line for line in problems_of(path))
