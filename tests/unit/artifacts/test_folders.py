"""A folder can be written into, or is told what stands in the way; the question leaves nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coordexp.artifacts.folders import FolderError, check_room, check_writable, traces_of_run

pytestmark = pytest.mark.invariant("ART-010")


def everything(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


@pytest.mark.parametrize("name", ["", "new", "new/below/it"])
def test_a_folder_that_is_there_or_can_be_made_is_left_as_it_was(tmp_path, name):
    (tmp_path / "held.txt").write_text("x")
    before = everything(tmp_path)
    assert check_writable(tmp_path / name) == tmp_path / name
    assert everything(tmp_path) == before


def test_a_folder_behind_a_link_is_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert check_writable(tmp_path / "link" / "run") == tmp_path / "link" / "run"
    assert not any((tmp_path / "real").iterdir())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file", "file: is a file, not a folder; move it away, or write another path"),
        ("file/run", "file/run: {root}/file is a file, not a folder"),
        ("dangling", "dangling: is a link that leads nowhere, not a folder"),
        ("dangling/run", "dangling/run: {root}/dangling is a link that leads nowhere"),
        ("loop/run", "{root}/loop is a link that leads nowhere"),
        ("new/" + "x" * 300, "cannot be written into (File name too long); write another path"),
    ],
)
def test_what_stands_in_the_way_is_named(tmp_path, place, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = everything(tmp_path)
    with pytest.raises(FolderError) as caught:
        check_writable(tmp_path / place)
    assert words.format(root=tmp_path) in str(caught.value)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("place", ["/proc", "/proc/run"])
def test_a_folder_that_the_system_keeps_is_refused_to_root_too(place):
    with pytest.raises(FolderError, match=rf"^{place}: cannot be written into \("):
        check_writable(Path(place))


def test_room_is_what_the_disk_of_the_nearest_folder_has(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert check_room(tmp_path / "not" / "yet", 1) == tmp_path / "not" / "yet"
    with pytest.raises(FolderError, match=r"takes [\d.]+ GiB, and its disk has [\d.]+ GiB left; free some"):
        check_room(tmp_path / "not" / "yet", 2 * free + 2**30)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["resolved_config.json", "tb/events", "conversation.txt"], ()),
        (["run_manifest.json", "resolved_config.json"], ("run_manifest.json",)),
        (["final/model.safetensors"], ("final",)),
        (["checkpoint-5/model.safetensors", "logging.jsonl"], ("checkpoint-5", "logging.jsonl")),
        (["model.safetensors", "config.json"], ("config.json", "model.safetensors")),
        (["adapter_config.json", "adapter_model.safetensors"], ("adapter_config.json", "adapter_model.safetensors")),
        (["v0-20260101-000000/final/model.safetensors"], ()),
    ],
)
def test_a_folder_that_holds_a_run_is_known_by_what_a_run_writes(tmp_path, names, found):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert traces_of_run(tmp_path) == found


def test_what_is_no_folder_holds_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "none", tmp_path / ("x" * 300)):
        assert traces_of_run(place) == ()
