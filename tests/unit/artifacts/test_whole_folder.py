"""A folder is there whole or not at all: after an error, after a kill, beside what is there already."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.artifacts import whole_folder
from coordexp.artifacts.folders import FolderError
from coordexp.artifacts.whole_folder import partial_folders, point_link, remove_folder, written_whole

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.invariant("ART-020")
def test_a_folder_has_its_name_when_it_is_whole_and_not_before(tmp_path):
    final = tmp_path / "runs" / "final"
    with written_whole(final) as partial:
        (partial / "a").write_text("a")
        assert partial.parent == final.parent and not final.exists()
        assert partial_folders(tmp_path / "runs") == (partial,) == partial_folders(tmp_path)
    assert [path.name for path in final.parent.iterdir()] == ["final"]
    assert (final / "a").read_text() == "a"


@pytest.mark.invariant("ART-020")
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), FolderError),
        (Exception("No space left on device (os error 28)"), FolderError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("torn"), ValueError),
    ],
)
def test_what_ends_in_an_error_leaves_nothing(tmp_path, error, raised):
    with pytest.raises(raised) as caught, written_whole(tmp_path / "final") as partial:
        (partial / "a").write_text("a")
        raise error
    if raised is FolderError:
        assert str(caught.value).startswith(f"{tmp_path / 'final'}: could not be written: ")
        assert "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.invariant("ART-020")
def test_a_kill_leaves_a_folder_that_tells_what_it_is_and_that_the_next_writer_removes(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from coordexp.artifacts.whole_folder import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'old').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "final")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".partial-final"]
    with written_whole(tmp_path / "final") as partial:
        (partial / "new").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["final", "new"]


@pytest.mark.invariant("ART-020")
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_left_alone_and_named(tmp_path, kind):
    final = tmp_path / "final"
    if kind == "folder":
        final.mkdir()
        (final / "mine").write_text("")
    elif kind == "file":
        final.write_text("")
    else:
        final.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"final: (holds files already|is a file), and .* write another path"):
        written_whole(final).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.invariant("ART-020")
def test_an_empty_folder_is_taken_and_files_have_their_owners_usual_mode(tmp_path):
    (tmp_path / "final").mkdir()
    with written_whole(tmp_path / "final") as partial:
        (partial / "weights").touch(mode=0o600)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "final" / "weights").stat().st_mode) == 0o666 & ~mask


@pytest.mark.invariant("ART-020")
def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(whole_folder.os, "fsync", lambda _: told.append((tmp_path / "final").exists()))
    with written_whole(tmp_path / "final") as partial:
        (partial / "a").write_text("a")
    assert told == [False, False, True], "the file, its folder, and then the name in the folder above"


@pytest.mark.invariant("ART-020")
def test_a_folder_that_goes_loses_its_name_first(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "weights").write_text("")
    monkeypatch.setattr(whole_folder.shutil, "rmtree", lambda *_, **__: None)
    remove_folder(tmp_path / "checkpoint-1")
    assert [path.name for path in tmp_path.iterdir()] == [".partial-checkpoint-1"]


@pytest.mark.invariant("TRAIN-080")
def test_a_link_leads_to_its_new_target_wherever_the_folder_goes(tmp_path):
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / "run" / name).mkdir(parents=True)
        point_link(tmp_path / "run" / "last", tmp_path / "run" / name)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "last").resolve() == tmp_path / "moved" / "checkpoint-2"
    assert len(list((tmp_path / "moved").iterdir())) == 3
