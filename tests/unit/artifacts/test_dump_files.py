"""Dump files: within their bounds, every text as it is, and nothing that a disk does ends a run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.artifacts.dump_files import Cadence, DumpBounds, DumpFiles
from coordexp.artifacts.files import read_json_lines, render_json_line
from coordexp.metrics.accumulator import MetricAccumulator

BOUNDS = DumpBounds(every_steps=3, max_events=2, max_samples=1, max_chars=10, min_free_gib=0.0)
MORE_THAN_ANY_DISK = 1e9


def files(folder: Path, **changes: Any) -> DumpFiles:
    return DumpFiles(folder, "a.dump", replace(BOUNDS, **changes))


def observed(dump: DumpFiles) -> dict[str, float]:
    """What reaches the log, without the time."""
    accumulator = MetricAccumulator()
    accumulator.merge(dump.take_observed())
    result = accumulator.result()
    assert result.pop("time/rollout_dump_s", 0.0) >= 0.0
    return {key.removeprefix("rollout/dumps_").removesuffix("_total"): value for key, value in result.items()}


@pytest.mark.invariant("ART-060")
@pytest.mark.parametrize(
    ("first", "asked", "due"),
    [
        (True, range(8), [0, 3, 6]),
        (False, range(8), [3, 6]),
        # Steps of Channel B: none of them is a multiple of 3.
        (True, [19, 20, 23, 38], [19, 23, 38]),
        (False, [19, 20, 23, 38], [23, 38]),
    ],
)
def test_an_event_is_due_so_many_steps_after_the_one_before(first: bool, asked: Any, due: list[int]) -> None:
    cadence = Cadence(replace(BOUNDS, first_step=first))
    assert [step for step in asked if cadence.due(step)] == due


@pytest.mark.invariant("ART-060")
def test_events_of_each_kind_end_at_their_bound(tmp_path: Path) -> None:
    dump = files(tmp_path / "dumps")
    for kind in ("train", "eval"):
        for number in range(4):
            if dump.has_room(kind):
                dump.write(kind, f"{kind}{number}.jsonl", lambda: [{"a": 1}, {"b": 2}])
    names = sorted(path.name for path in dump.folder.iterdir())
    assert names == ["eval0.jsonl", "eval1.jsonl", "train0.jsonl", "train1.jsonl"]
    assert [json.loads(line) for line in (dump.folder / names[0]).read_text().splitlines()] == [{"a": 1}, {"b": 2}]
    assert observed(dump) == {"written": 4, "skipped": 0, "failed": 0}
    assert observed(dump) == {"written": 0, "skipped": 0, "failed": 0}, "nothing is told twice"


@pytest.mark.invariant("ART-060")
def test_an_event_that_grows_is_one_event(tmp_path: Path) -> None:
    dump = files(tmp_path, max_events=1)
    dump.write("train", "a.jsonl", lambda: [{"a": 1}])
    dump.write("train", "a.jsonl", lambda: [{"a": 1}, {"a": 2}])
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 2
    assert observed(dump)["written"] == 1 and not dump.has_room("train")


@pytest.mark.invariant("ART-061")
def test_a_low_disk_skips_events_counts_them_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump = files(tmp_path / "dumps", min_free_gib=MORE_THAN_ANY_DISK)
    with caplog.at_level(logging.INFO, logger="coordexp"):
        for number in range(3):
            dump.write("train", f"{number}.jsonl", lambda: pytest.fail("nothing is made that will not be written"))
        dump.tell()
    assert not list(dump.folder.iterdir())
    assert observed(dump) == {"written": 0, "skipped": 3, "failed": 0}
    assert dump.has_room("train"), "what is skipped takes no event's place"
    during, end = caplog.records
    assert f"a.dump: {dump.folder} has " in during.getMessage() and "min_free_gib is 1e+09" in during.getMessage()
    assert end.levelno == logging.WARNING and "0 events written" in end.getMessage() and "3 skipped" in end.getMessage()


@pytest.mark.invariant("ART-061")
def test_the_least_free_space_is_in_gib_of_the_folder_s_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub, for no disk of a test is just that full."""
    from types import SimpleNamespace

    from coordexp.artifacts import dump_files

    for free, fits in ((2 * 2**30, True), (2 * 2**30 - 1, False)):
        monkeypatch.setattr(dump_files.shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        dump = files(tmp_path / str(free), min_free_gib=2.0)
        dump.write("train", "a.jsonl", lambda: [{}])
        assert observed(dump)["written"] == fits


@pytest.mark.invariant("ART-061")
def test_a_failing_disk_is_counted_told_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "dumps"
    folder.write_text("a file in the folder's place")
    dump = files(folder)
    with caplog.at_level(logging.WARNING, logger="coordexp"):
        for number in range(2):
            dump.write("train", f"{number}.jsonl", lambda: [{"a": 1}])
        (told,) = caplog.records
        folder.unlink()
        dump.write("train", "2.jsonl", lambda: [{"a": 1}])
        dump.tell()
    assert "a.dump" in told.getMessage() and "0.jsonl cannot be written" in told.getMessage()
    assert "training goes on" in told.getMessage()
    assert observed(dump) == {"written": 1, "skipped": 0, "failed": 2}
    assert (folder / "2.jsonl").is_file()
    assert "1 events written" in caplog.records[-1].getMessage() and "2 failed" in caplog.records[-1].getMessage()


@pytest.mark.invariant("ART-061")
def test_a_file_that_cannot_be_whole_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files, which the kernel enforces as a full disk is."""
    import resource

    dump = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        dump.write("train", "a.jsonl", lambda: [{"a": "x" * 2**20}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert observed(dump)["failed"] == 1 and not list(tmp_path.iterdir())


@pytest.mark.invariant("ART-061")
def test_a_fault_of_the_program_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files(tmp_path).write("train", "a.jsonl", lambda: [{"a": float("nan")}])


@pytest.mark.invariant("ART-062")
@given(st.text(st.characters()))
def test_every_text_comes_back_as_it_was(text: str) -> None:
    line = render_json_line({"text": text})
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert json.loads(line.decode("utf-8")) == {"text": text}


@pytest.mark.invariant("ART-062")
@pytest.mark.parametrize("text", ["\ud800", "\udfff😀", "\x00\x1b[31m\r\n\u2028\x85", "\\ud800", "ж[bold]‮"])
def test_what_a_model_can_write_is_a_line_of_a_file(text: str, tmp_path: Path) -> None:
    dump = files(tmp_path)
    dump.write("train", "a.jsonl", lambda: [{text: [text]}, {"b": text}])
    assert read_json_lines(tmp_path / "a.jsonl") == [{text: [text]}, {"b": text}]


@pytest.mark.invariant("ART-062")
def test_a_line_ends_at_a_line_feed_alone_and_a_torn_one_is_named(tmp_path: Path) -> None:
    """JSON lets other ends of lines stand in a text, and other writers leave them there."""
    path = tmp_path / "others.jsonl"
    path.write_bytes('{"a": "one\u2028two\x85three"}\n\n{"a": 2}\n'.encode())
    assert read_json_lines(path) == [{"a": "one\u2028two\x85three"}, {"a": 2}]
    path.write_bytes(b'{"a": 1}\n{"a": ')
    with pytest.raises(ValueError, match=r"others\.jsonl:2: no JSON"):
        read_json_lines(path)
