"""What a run cannot use is refused before data is read or weights are loaded, by run and dry run in one wording."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.config import Config, ConfigError, load_config
from coordexp.config.problems import render_path
from tests.plugins.checkpoints import change_checkpoint

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
NUMBER = itertools.count()


def cases() -> list[Any]:
    rows = json.loads((ROOT / "fixtures/training/refusals.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(row["input"], row["expect"], id=row["description"].replace(" ", "-")) for row in rows]


def prepared(kit: Stage1Kit, given: dict[str, Any]) -> Config:
    """The configuration of a case, with its files and folders around it."""
    name = f"case-{next(NUMBER)}"
    folder = kit.root / name
    sections = json.loads(json.dumps(given.get("sections", {})).replace("{folder}", str(folder)))
    if "checkpoint" in given:
        changed = change_checkpoint(kit.checkpoint, kit.root / f"{name}-checkpoint", given["checkpoint"])
        sections["model"] = {"model": str(changed), **sections.get("model", {})}
    path = kit.write(name, **sections)
    for file, text in given.get("texts", {}).items():
        (folder / file).write_text(text)
    for place, kind in given.get("make", {}).items():
        make(folder / place, kind)
    return load_config(path)


def make(place: Path, kind: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(place.parent / "nowhere")
    else:
        place.write_text("")


@pytest.mark.invariant("TRAIN-023")
@pytest.mark.invariant("TRAIN-024")
@pytest.mark.invariant("CONFIG-025")
@pytest.mark.invariant("CONFIG-027")
@pytest.mark.parametrize(("given", "expected"), cases())
def test_a_run_can_begin_or_is_told_why_not(stage1_kit, given, expected, monkeypatch):
    from coordexp.training.dry_run import dry_run
    from coordexp.training.stage1 import run_stage1

    for name in given.get("without", ()):
        leave_out(name, monkeypatch)
    monkeypatch.delenv("RANK", raising=False)
    config = prepared(stage1_kit, given)
    before = sorted(config.sources.path.parent.rglob("*"))
    if not expected:
        assert dry_run(config)[0] == "train: 14 records, val: 3 records"
        return
    with pytest.raises(ConfigError) as refused:
        dry_run(config)
    found = {render_path(problem.path): problem.message for problem in refused.value.problems}
    assert sorted(found) == sorted(expected)
    for key, words in expected.items():
        assert words in found[key]
    assert sorted(config.sources.path.parent.rglob("*")) == before
    with pytest.raises(ConfigError, match=f"^{re.escape(str(refused.value))}$"):
        run_stage1(config)
    assert sorted(config.sources.path.parent.rglob("*")) == before


def leave_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package one that is not installed; a GPU cannot be hidden from a torch that has begun."""
    import torch

    if name != "gpu":
        monkeypatch.setitem(sys.modules, name, None)
        assert find_spec(name) is None
    elif torch.cuda.is_available():
        pytest.skip("this machine has a GPU")


@pytest.mark.invariant("TRAIN-024")
def test_a_second_run_into_the_folder_of_a_first_leaves_it_as_it_is(stage1_kit):
    from coordexp.training.stage1 import run_stage1

    config = load_config(stage1_kit.write("first_run", training={"max_steps": 1}))
    final = run_stage1(config).checkpoint
    before = {path: path.stat().st_mtime_ns for path in sorted(final.parent.rglob("*"))}
    assert final / "model.safetensors" in before
    with pytest.raises(ConfigError, match=r"training\.output_dir: .*holds a run or a checkpoint already \(final"):
        run_stage1(config)
    assert {path: path.stat().st_mtime_ns for path in sorted(final.parent.rglob("*"))} == before


@pytest.mark.invariant("TRAIN-024")
def test_of_several_ranks_the_first_alone_looks_at_what_it_writes(stage1_kit, monkeypatch):
    from coordexp.training.preflight import check_run

    config = prepared(stage1_kit, {"make": {"run/run_manifest.json": "file"}})
    monkeypatch.setenv("RANK", "1")
    assert check_run(config).folder == stage1_kit.checkpoint
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="holds a run"):
        check_run(config)


@pytest.mark.invariant("TRAIN-023")
def test_a_batch_that_the_ranks_do_not_divide_is_refused_first(stage1_kit, monkeypatch):
    from coordexp.training.preflight import check_run

    config = prepared(stage1_kit, {})
    assert config.training.effective_batch_size == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"effective_batch_size: 2 is no multiple of .* x 3 ranks = 3"):
        check_run(config)


@pytest.mark.invariant("CONFIG-028")
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_records_of_a_step_divide_over_the_ranks_whatever_a_forward_takes(stage1_kit, monkeypatch, ranks):
    from coordexp.training.arguments import swift_keyword_arguments
    from coordexp.training.preflight import check_run

    sections = {
        "training": {"effective_batch_size": 8, "per_device_train_batch_size": 3},
        "custom": {"trainer_variant": "stage2_rollout_aligned", "desc_ce_weight": None, "bbox_geo": None},
        "rollout_matching": {"max_new_tokens": 64},
    }
    config = prepared(stage1_kit, {"sections": sections})
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    if 8 % ranks == 0:
        assert check_run(config).folder == stage1_kit.checkpoint
        handed = swift_keyword_arguments(config, stage1_kit.checkpoint, ranks)
        assert (handed["per_device_train_batch_size"], handed["gradient_accumulation_steps"]) == (3, 1)
        return
    for refused in (lambda: check_run(config), lambda: swift_keyword_arguments(config, stage1_kit.checkpoint, ranks)):
        with pytest.raises(ConfigError, match=r"the 8 records of a step do not divide over 3 ranks; .* such as 9$"):
            refused()


@pytest.mark.invariant("TRAIN-024")
def test_a_disk_without_room_for_a_checkpoint_is_refused(stage1_kit, tmp_path):
    from coordexp.training.dry_run import dry_run

    folder = Path(shutil.copytree(stage1_kit.checkpoint, tmp_path / "checkpoint"))
    parameters = 2**40
    add_sparse_tensor(folder / "model.safetensors", parameters)
    config = load_config(stage1_kit.write("no_room", model={"model": str(folder)}))
    assert shutil.disk_usage(tmp_path).free < 4 * parameters, "the premise: nobody's disk has 4 TiB free"
    with pytest.raises(ConfigError, match=r"output_dir: .*one checkpoint takes 4096\.\d GiB, and its disk has "):
        dry_run(config)


def add_sparse_tensor(path: Path, size: int) -> None:
    """Append a float32 tensor of `size` numbers to a safetensors file, as a hole that takes no room."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    header["extra"] = {"dtype": "F32", "shape": [size], "data_offsets": [len(body), len(body) + 4 * size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    os.truncate(path, 8 + len(text) + len(body) + 4 * size)


@pytest.mark.invariant("TRAIN-024")
@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, 4 * 700_608),
        ({"model": {"torch_dtype": "bfloat16"}}, 2 * 700_608),
        ({"tuner": {"tuner_type": "lora", "lora_rank": 4}}, None),
    ],
    ids=["float32", "bfloat16", "adapter"],
)
def test_the_room_of_a_checkpoint_is_what_it_takes(stage1_kit, sections, expected):
    from coordexp.training.preflight import check_run, checkpoint_bytes
    from coordexp.training.stage1 import run_stage1

    name = f"room-{next(NUMBER)}"
    config = load_config(stage1_kit.write(name, training={"max_steps": 1}, **sections))
    reckoned = checkpoint_bytes(config, check_run(config))
    taken = sum(path.stat().st_size for path in run_stage1(config).checkpoint.glob("*.safetensors"))
    assert 0.9 * taken <= reckoned <= 2 * taken
    assert expected in (None, reckoned)


@pytest.mark.invariant("TRAIN-023")
def test_a_vocabulary_beyond_the_models_rows_is_refused(stage1_kit):
    from coordexp.coords.vocab import CoordVocab
    from coordexp.training.preflight import check_run, check_vocabulary

    config = prepared(stage1_kit, {})
    model = check_run(config)
    check_vocabulary(config, CoordVocab(tuple(range(408, 1408))), model)
    with pytest.raises(ConfigError, match=r"model\.model: the tokenizer's coord tokens end at 1408, and the model "):
        check_vocabulary(config, CoordVocab(tuple(range(409, 1409))), model)


def untied(kit: Stage1Kit, folder: Path) -> Path:
    """The checkpoint with a head of its own."""
    from safetensors.torch import load_file, save_file

    tied = {"tie_word_embeddings": False, "text_config.tie_word_embeddings": False}
    change_checkpoint(kit.checkpoint, folder, {"set": {"config.json": tied}})
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


SERVER = {"max_model_len": 600, "server": {"servers": [{"base_url": "http://127.0.0.1:8000", "group_port": 1}]}}


@pytest.mark.invariant("TRAIN-023")
@pytest.mark.parametrize("backend", ["vllm", "hf"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("offsets", [{}, {"enabled": True}, {"enabled": True, "tie_head": False}])
def test_a_head_that_a_rollout_server_would_drop_is_refused(stage2_kit, tmp_path, backend, tied, offsets):
    from coordexp.training.dry_run import dry_run
    from coordexp.training.preflight import check_run

    kit = stage2_kit.stage1
    folder = kit.checkpoint if tied else untied(kit, tmp_path / "untied")
    rollouts = {"rollout_backend": backend} | ({"vllm": SERVER} if backend == "vllm" else {})
    sections = {"model": {"model": str(folder)}, "custom": {"coord_offset": offsets}, "rollout_matching": rollouts}
    config = load_config(stage2_kit.write(f"served-{next(NUMBER)}", **sections))
    if tied and backend == "vllm" and "tie_head" in offsets:
        for ask in (check_run, dry_run):
            with pytest.raises(ConfigError, match=r"custom\.coord_offset\.tie_head: false gives .*; write true, or"):
                ask(config)
        return
    assert check_run(config).tied == tied
