"""`predict --server` against a live server: the checkpoint's own answers, or one message about a server of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.entrypoints.predict import main
from coordexp.rollout.serve import API_KEY_VARIABLE
from coordexp.spec import check
from tests.plugins import live_server
from tests.plugins.stage2 import EARLY
from tests.server.learners import backend_of, build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.live_server import Live
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [
    pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("live"), pytest.mark.invariant("EVAL-075"),
]  # fmt: skip
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/stage1/smoke/shapes.yaml"
OTHER = ROOT / "fixtures/tiny-qwen3vl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(EARLY, tmp_path_factory.mktemp("served") / "checkpoint")


@pytest.fixture(scope="module")
def own(checkpoint: Path) -> Iterator[Live]:
    """A server that was started from `checkpoint`, and that no other test pushes to."""
    server = live_server.start(checkpoint.parent, more=["--model", str(checkpoint)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(API_KEY_VARIABLE, server.key)
        yield server
    server.stop()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_splits(folder, [SplitSpec("raw", 5, "plain")], seed=7)
    return folder / "raw"


def ask(checkpoint: Path, photos: Path, out: Path, *more: str) -> int:
    given = [checkpoint, photos, "--out", out, "--config", CONFIG, "--max-new-tokens", "96", "--batch-size", "2", *more]
    return main(list(map(str, given)))


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [check("prediction-line", json.loads(line)) for line in (out / "answers.jsonl").read_text().splitlines()]


# The tests run in this order: each leaves the server a step further from the checkpoint.


def test_a_server_answers_as_the_checkpoint_does(own: Live, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    assert ask(checkpoint, photos, tmp_path / "served", "--server", own.base_url + "/") == 0
    assert ask(checkpoint, photos, tmp_path / "local") == 0
    served, local = lines_of(tmp_path / "served"), lines_of(tmp_path / "local")
    assert len(served) == 5 and sum(len(line["objects"]) for line in served) > 4
    for theirs, ours in zip(served, local, strict=True):
        assert theirs.pop("objects") == [
            found | {"score": pytest.approx(found["score"], abs=1e-4)} for found in ours.pop("objects")
        ]
        assert theirs == ours
    settings = json.loads((tmp_path / "served/settings.json").read_text())["answering"]
    assert (settings["backend"], settings["dtype"]) == ("vllm", "float32")


def refusal(capsys: pytest.CaptureFixture[str], *asked: Any) -> str:
    capsys.readouterr()
    assert ask(*asked) == 1
    err = capsys.readouterr().err
    return err[err.index("predict: ") :]


def test_grammar_and_limit_reach_the_server(own: Live, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    more = ("--grammar", "--limit", "2", "--no-pictures")
    assert ask(checkpoint, photos, tmp_path / "served", "--server", own.base_url, *more) == 0
    assert ask(checkpoint, photos, tmp_path / "local", *more) == 0
    served, local = lines_of(tmp_path / "served"), lines_of(tmp_path / "local")
    assert [line["text"] for line in served] == [line["text"] for line in local] and len(served) == 2


def test_what_a_server_cannot_take_is_told(
    own: Live, checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (checkpoint, photos, tmp_path / "out", "--server", own.base_url)
    assert "exceeds the server's max_model_len 1024" in refusal(capsys, *asked, "--max-new-tokens", "1020")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(API_KEY_VARIABLE, "another")
        assert f"set {API_KEY_VARIABLE}" in refusal(capsys, *asked)


def test_a_server_of_another_checkpoint_is_refused(
    own: Live, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, OTHER, photos, tmp_path / "out", "--server", own.base_url)
    assert "model: the server has" in told and str(OTHER) in told
    assert not (tmp_path / "out").exists()


def test_a_folder_that_changed_after_the_server_s_start_is_told_by_an_answer(
    own: Live, checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoint / "model.safetensors"
    kept = weights.rename(checkpoint / "kept")
    shutil.copy(OTHER / "model.safetensors", weights)
    try:
        told = refusal(capsys, checkpoint, photos, tmp_path / "out", "--server", own.base_url)
    finally:
        kept.rename(weights)
    assert "does not run the learner's weights" in told and "Its folder has changed" in told
    assert (tmp_path / "out/answers.jsonl").read_bytes() == b""


def test_a_server_that_a_learner_pushed_to_is_refused(
    own: Live,
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    stage2_kit: Stage2Kit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = build(stage2_kit, own, "predict_after_push", model={"model": str(checkpoint)})
    backend_of(learner).sync(0)
    told = refusal(capsys, checkpoint, photos, tmp_path / "out", "--server", own.base_url)
    assert "weight_loads: the server has 1, the learner needs 0" in told and "weights were pushed to it" in told
