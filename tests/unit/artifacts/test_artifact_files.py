"""Atomic files and content hashes."""

from __future__ import annotations

import json
import os

import pytest

from coordexp.artifacts.files import (
    hash_folder,
    hash_weights,
    write_bytes,
    write_json,
    write_json_lines,
    write_text,
)


@pytest.mark.invariant("ART-003")
def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "deep" / "report.json", {"b": 1, "a": "é"})
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_bytes() == before
    assert json.loads(before) == {"a": "é", "b": 1}
    assert os.listdir(path.parent) == ["report.json"]


@pytest.mark.invariant("ART-003")
def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_bytes(tmp_path / "weights", b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "text")  # type: ignore[arg-type]  # refused by the stream, after the temporary file was opened
    assert os.listdir(tmp_path) == ["weights"]
    assert path.read_bytes() == b"old"


@pytest.mark.invariant("ART-003")
def test_a_reader_that_holds_the_old_file_never_sees_the_new_bytes(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with path.open() as held:
        write_text(path, "newer")
        assert held.read() == "old"
    assert path.read_text() == "newer"


@pytest.mark.invariant("ART-003")
def test_an_artifact_has_the_rights_of_any_new_file(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    assert write_text(tmp_path / "artifact", "x").stat().st_mode == ordinary.stat().st_mode


def test_json_lines_keep_their_order(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"n": 2}, {"n": 1}])
    assert path.read_text() == '{"n": 2}\n{"n": 1}\n'


@pytest.mark.invariant("ART-009")
def test_a_folders_hash_changes_with_any_name_or_byte_and_nothing_else(tmp_path):
    for name in ("one", "two"):
        write_text(tmp_path / name / "a/x.yaml", "x: 1\n")
        write_text(tmp_path / name / "b.json", "{}")
    first = hash_folder(tmp_path / "one")
    assert first == hash_folder(tmp_path / "two")
    os.utime(tmp_path / "two/b.json", (1, 1))
    assert first == hash_folder(tmp_path / "two")
    write_text(tmp_path / "two/b.json", "{ }")
    changed = hash_folder(tmp_path / "two")
    write_text(tmp_path / "two/b.json", "{}")
    (tmp_path / "two/b.json").rename(tmp_path / "two/c.json")
    assert len({first, changed, hash_folder(tmp_path / "two")}) == 3


@pytest.mark.invariant("ART-009")
def test_the_hash_of_weights_leaves_other_files_out(tmp_path):
    write_bytes(tmp_path / "model.safetensors", b"weights")
    before = hash_weights(tmp_path)
    write_text(tmp_path / "README.md", "words")
    assert hash_weights(tmp_path) == before
    write_bytes(tmp_path / "model.safetensors", b"Weights")
    assert hash_weights(tmp_path) != before
