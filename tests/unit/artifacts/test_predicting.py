"""Answers outlive a kill, are not made twice, and are not mixed with those of another checkpoint or setting."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image

from coordexp.artifacts.predicting import PredictionError, drawn_name, predict
from coordexp.artifacts.prediction_files import AnswerFolder
from coordexp.config import load_config
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.entrypoints.predict import main
from coordexp.evaluation.prediction import Predictor, build_prediction_job
from coordexp.rollout.types import BackendSettings, Decoding, RolloutError, RolloutOutput
from coordexp.spec import check
from tests.unit.artifacts.test_any_text import TEXTS
from tests.unit.artifacts.test_any_text import answer as written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.types import Progress, RolloutRequest

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/stage1/smoke/shapes.yaml"
TINY, EARLY = ROOT / "fixtures/tiny-qwen3vl", ROOT / "fixtures/tiny-qwen3vl-early"
COUNT = 12
READY_S = 120.0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_splits(folder, [SplitSpec("raw", COUNT, "plain")], seed=5)
    return folder / "raw"


def call(photos: Path | str, out: Path, *more: str, checkpoint: Path = TINY, config: Path = CONFIG) -> list[str]:
    given = [checkpoint, photos, "--out", out, "--config", config, "--max-new-tokens", "64", "--batch-size", "1", *more]
    return list(map(str, given))


def lines_of(out: Path) -> list[dict[str, Any]]:
    content = (out / "answers.jsonl").read_bytes()
    return [check("prediction-line", json.loads(line)) for line in content.split(b"\n") if line]


def killed(photos: Path, out: Path, lines: int) -> bytes:
    """What a SIGKILL leaves of the answers, sent when `lines` of them stand there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "coordexp.entrypoints.predict", *call(photos, out)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    answers, deadline = out / "answers.jsonl", time.monotonic() + READY_S
    while not answers.exists() or answers.read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1].decode()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return answers.read_bytes()


@pytest.mark.timeout(300)
@pytest.mark.invariant("EVAL-073")
def test_a_killed_call_goes_on_where_it_stood(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = killed(photos, out, 3)
    stood = left.split(b"\n")[:-1]
    assert left.endswith(b"\n") and 3 <= len(stood) < COUNT, "whole lines, some of them"
    assert not (out / "summary.json").exists() and (out / ".shown").exists()
    # A mark that only an answer that is not made anew keeps, and a line that was cut off.
    kept = {**json.loads(stood[0]), "text": "kept"}
    (out / "answers.jsonl").write_bytes(json.dumps(kept).encode() + b"\n" + left[len(stood[0]) + 1 :] + stood[0][:40])
    assert main(call(photos, out)) == 0
    assert main(call(photos, tmp_path / "whole")) == 0
    found, whole = lines_of(out), lines_of(tmp_path / "whole")
    assert found[0]["text"] == "kept"
    assert [found[0] | {"text": whole[0]["text"]}, *found[1:]] == whole
    for name in ("coco_images.json", "coco_results.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    names = sorted(path.name for path in (out / "pictures").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole/pictures").iterdir()) and len(names) == COUNT
    assert not (out / ".shown").exists()


class Speaker:
    """A backend that says `texts` one after the other, and counts what it was asked; `fails` at a call by its number.

    A model cannot be made to write just these letters.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], fails: int | None = None) -> None:
        self.asked: list[str] = []
        self._tokenizer, self._texts, self._fails, self._calls = tokenizer, list(texts), fails, 0

    @property
    def settings(self) -> BackendSettings:
        return BackendSettings("hf", "float32", 1, logprobs=True)

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        if self._calls == self._fails:
            raise RolloutError("the server has ended")
        self._calls += 1
        outputs = []
        for request in requests:
            assert all(path.is_file() for path in request.image_paths)
            text = self._texts[len(self.asked) % len(self._texts)]
            self.asked.append(request.sample_id)
            ids = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
            logprobs = (-0.1,) * len(ids)
            outputs.append(
                RolloutOutput(request.sample_id, request.prompt_token_ids, ids, text, "stop", 0, False, logprobs)
            )
        return outputs


def speaking(texts: Sequence[str], fails: int | None = None, batch: int = 1) -> tuple[Predictor, Speaker]:
    job = build_prediction_job(load_config(CONFIG), TINY, Decoding(64), batch)
    speaker = Speaker(Predictor(job).encoder.tokenizer, texts, fails)
    return Predictor(job, speaker), speaker


@pytest.mark.invariant("EVAL-073")
def test_each_batch_is_written_before_the_next_is_asked(photos: Path, tmp_path: Path) -> None:
    names = [str(path) for path in sorted(photos.rglob("*.png"))]
    predictor, speaker = speaking([written("cup")], fails=3, batch=2)
    told: list[tuple[int, int]] = []
    with pytest.raises(RolloutError, match="has ended"):
        predict(predictor, names, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert [line["image"] for line in lines_of(tmp_path / "out")] == names[:6] == speaker.asked
    assert told[-1] == (6, COUNT) and not (tmp_path / "out/summary.json").exists()
    predictor, speaker = speaking([written("cup")], batch=4)
    assert predict(predictor, names, tmp_path / "out")["answered"] == COUNT
    assert speaker.asked == names[6:]
    settings = check("prediction-settings", json.loads((tmp_path / "out/settings.json").read_text()))
    assert settings["decode_batch_sizes"] == [2, 4]
    predictor, speaker = speaking([written("cup")])
    assert predict(predictor, names, tmp_path / "out")["answered"] == COUNT and speaker.asked == []


@pytest.mark.invariant("EVAL-073")
def test_pictures_that_come_later_are_answered_and_take_their_places(photos: Path, tmp_path: Path) -> None:
    names = [str(path) for path in sorted(photos.rglob("*.png"))][:4]
    predict(speaking([written("cup")])[0], names[2:], tmp_path / "out")
    predictor, speaker = speaking([written("cup")])
    predict(predictor, names, tmp_path / "out")
    assert speaker.asked == names[:2]
    assert [line["image"] for line in lines_of(tmp_path / "out")] == names
    images = json.loads((tmp_path / "out/coco_images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == list(enumerate(names, 1))


@pytest.mark.invariant("EVAL-076")
def test_any_text_is_written_and_drawn(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [str(path) for path in sorted(photos.rglob("*.png"))]
    texts = [written(text) for text in TEXTS.values()]
    assert len(names) >= len(texts)
    predict(speaking(texts)[0], names[: len(texts)], tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    assert [line["text"] for line in lines] == texts
    assert sum(len(line["objects"]) for line in lines) >= len(texts) - 2
    assert all((tmp_path / "out" / drawn_name(line["image"])).is_file() for line in lines)
    assert not [record for record in caplog.records if record.name.startswith("coordexp")]
    kinds = json.loads((tmp_path / "out/coco_images.json").read_bytes())["categories"]
    assert {kind["name"] for kind in kinds} == {each["desc"] for line in lines for each in line["objects"]}
    objects = json.loads((tmp_path / "out/summary.json").read_bytes())["objects"]
    assert objects.keys() == {kind["name"] for kind in kinds}


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers to two pictures."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(call(photos, out, "--limit", "2")) == 0
    return out


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 1
    err = capsys.readouterr().err
    return err[err.index("predict: ") :]


@pytest.mark.invariant("EVAL-074")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": EARLY}, "weights_sha256: '"),
        ({"template": {"max_pixels": 32768}}, "max_pixels: 65536 there, 32768 now"),
        ({"custom": {"object_field_order": "geometry_first"}}, "user_prompt: 'List the objects as JSON: desc, then"),
        ({"model": {"torch_dtype": "bfloat16"}}, "dtype: 'float32' there, 'bfloat16' now"),
        ({"more": ["--grammar"]}, "grammar: None there, '"),
        ({"more": ["--max-new-tokens", "65"]}, "max_new_tokens: 64 there, 65 now"),
    ],
)
def test_answers_of_other_settings_are_not_mixed(
    photos: Path,
    done: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    more, checkpoint = change.pop("more", []), change.pop("checkpoint", TINY)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"extends": str(CONFIG), **change}))
    before = {path.name: path.read_bytes() for path in done.iterdir() if path.is_file()}
    told = refused(call(photos, done, "--limit", "3", *more, checkpoint=checkpoint, config=config), capsys)
    assert "holds answers that were made otherwise" in told and message in told
    assert "Name another folder with --out" in told and str(CONFIG) in told
    assert {path.name: path.read_bytes() for path in done.iterdir() if path.is_file()} == before


@pytest.mark.invariant("EVAL-074")
def test_a_change_that_changes_no_answer_is_none(photos: Path, done: Path, tmp_path: Path) -> None:
    """Another place of the same checkpoint, another learning rate, another batch."""
    shutil.copytree(TINY, tmp_path / "elsewhere")
    out = shutil.copytree(done, tmp_path / "out")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"extends": str(CONFIG), "training": {"learning_rate": 2e-3}}))
    more = ("--limit", "3", "--batch-size", "2")
    assert main(call(photos, out, *more, checkpoint=tmp_path / "elsewhere", config=config)) == 0
    assert lines_of(out)[:2] == lines_of(done)


@pytest.mark.invariant("EVAL-074")
def test_answers_to_other_pictures_are_refused(
    photos: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(call(photos, done, "--limit", "1"), capsys)
    assert "holds answers to 1 pictures that are not among the 1 of this call" in told
    copied, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "out"
    assert main(call(copied, out, "--limit", "2")) == 0
    first = Path(lines_of(out)[0]["image"])
    Image.new("RGB", (64, 64)).save(first)
    assert f"{first} is another picture than the one" in refused(call(copied, out, "--limit", "2"), capsys)


@pytest.mark.invariant("EVAL-074")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"report.json": "{}", "predictions.jsonl": ""}, "holds other files (predictions.jsonl, report.json) and no"),
        ({"settings.json": "{}"}, "is none of a prediction"),
        ({"settings.json": "no json"}, "is none of a prediction"),
        ({"answers.jsonl": "{}\n"}, "holds other files (answers.jsonl)"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], message: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    assert message in refused(call(photos, out), capsys)
    assert {path.name: path.read_text() for path in out.iterdir()} == files


@pytest.mark.invariant("EVAL-074")
def test_a_file_in_the_folder_s_place_and_a_line_that_is_none_are_named(
    photos: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in refused(call(photos, tmp_path / "file"), capsys)
    out = shutil.copytree(done, tmp_path / "out")
    with (out / "answers.jsonl").open("ab") as stream:
        stream.write(b'{"image": "x"}\n')
    assert "answers.jsonl: a line is none of an answer" in refused(call(photos, out, "--limit", "2"), capsys)


@pytest.mark.invariant("EVAL-074")
def test_two_calls_do_not_write_into_one_folder(
    photos: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(done, tmp_path / "out")
    holder = AnswerFolder(out, json.loads((out / "settings.json").read_text()))
    try:
        assert "another process is writing it" in refused(call(photos, out, "--limit", "2"), capsys)
    finally:
        holder.close()
    assert main(call(photos, out, "--limit", "2")) == 0


@pytest.mark.invariant("EVAL-073")
def test_a_full_disk_is_one_message(photos: Path, tmp_path: Path) -> None:
    names = [str(path) for path in sorted(photos.rglob("*.png"))][:2]
    folder = tmp_path / "out"
    predict(speaking([written("cup")])[0], names[:1], folder)
    settings = json.loads((folder / "settings.json").read_text())
    line = lines_of(folder)[0]
    stood = (folder / "answers.jsonl").stat().st_size
    answers = AnswerFolder(folder, settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond half a line more: to who writes, a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (stood + 100, limits[1]))
    try:
        with pytest.raises(PredictionError, match="cannot be written into"):
            answers.append([{**line, "image": "other"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        answers.close()
    assert (folder / "answers.jsonl").stat().st_size == stood + 100, "a part of the line stands there"
    predictor, speaker = speaking([written("cup")])
    predict(predictor, names, folder)
    assert lines_of(folder)[0] == line and speaker.asked == names[1:]


@pytest.mark.invariant("EVAL-077")
def test_a_picture_whose_prompt_leaves_no_room_is_named_alone(tmp_path: Path) -> None:
    """The smallest picture has room for one token less than is asked for by the largest."""
    for name, side in (("a small", 64), ("b large", 256)):
        Image.new("RGB", (side, side), "white").save(tmp_path / f"{name}.png")
    names = [str(tmp_path / "a small.png"), str(tmp_path / "b large.png")]
    with pytest.raises(RolloutError, match="the smallest picture") as refused:
        Predictor(build_prediction_job(load_config(CONFIG), TINY, Decoding(5000), 2))
    room = int(str(refused.value).partition("lower max_new_tokens to ")[2].partition(" ")[0])
    _, speaker = speaking([written("cup")])
    job = build_prediction_job(load_config(CONFIG), TINY, Decoding(room), 2)
    summary = predict(Predictor(job, speaker), names, tmp_path / "out")
    assert speaker.asked == names[:1]
    ((name, reason),) = [(each["image"], each["reason"]) for each in summary["unanswered"]]
    assert (name, reason) == (names[1], "prompt_too_long")
