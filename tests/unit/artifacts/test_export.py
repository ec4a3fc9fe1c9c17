"""One command makes a whole folder of any run, which answers and scores as what was trained, in each of its readers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from coordexp.bridges import subprocess_env
from coordexp.config import load_config
from coordexp.encode.checkpoint_record import check_recorded_weights
from coordexp.encode.prompts import render_prompt
from coordexp.encode.whole_model import check_whole_model
from coordexp.entrypoints.export import main as export
from tests.plugins.exported import KINDS, LORA, OFFSETS, Trained, tell
from tests.plugins.folder_readers import Answers, model_answers, transformers_answers
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
TEXT = render_prompt("desc_first", "sorted").user


def eval_loss(run: Trained, folder: Path, work: Path) -> float:
    """Validation loss of a whole folder, by the trainer that a run from it would have."""
    from coordexp.training.stage1 import build_stage1

    document = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    document.pop("tuner", None)
    document["custom"].pop("coord_offset", None)
    document["model"] = {"model": str(folder)}
    document["training"] |= {"output_dir": str(work / "run"), "logging_dir": str(work / "tb")}
    (work / "eval.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    trainer = build_stage1(load_config(work / "eval.yaml"))
    with warnings.catch_warnings():
        # Upstream tells how long it took to prepare a model that is evaluated before it is trained.
        warnings.filterwarnings("ignore", "undeclared metric: unknown metric key 'model_preparation_time'")
        return float(trainer.evaluate()["eval_loss"])


def adapted(folder: Path, *, offsets: bool) -> torch.nn.Module:
    """The base with the adapter of `folder` as peft loads it, with or without what lies beside it."""
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    from coordexp.forward.coord_offset_files import load_coord_offset

    model = PeftModel.from_pretrained(Qwen3VLForConditionalGeneration.from_pretrained(EARLY), folder)
    if offsets:
        load_coord_offset(model, folder)
    return model


@pytest.mark.invariant("ART-024")
@pytest.mark.parametrize("kind", list(KINDS))
def test_an_export_is_whole_and_scores_as_what_was_trained(
    trained: Callable[[str], Trained], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = trained(kind), tmp_path / "whole"
    code, told, _ = tell([str(run.run), "--out", str(out)], capsys)
    assert code == 0 and told.startswith(f"{out}: float32, ")
    assert check_whole_model(check_recorded_weights(out)).tied == (not kind.endswith("own-head"))
    assert not list(out.glob("coord_offset*")) and not list(out.glob("adapter*"))
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    found = eval_loss(run, out, tmp_path)
    assert f"{found:.4f}" == f"{run.eval_loss:.4f}" and found == pytest.approx(run.eval_loss, rel=1e-6)
    if kind.startswith("full"):
        assert (out / "model.safetensors").read_bytes() == (run.final / "model.safetensors").read_bytes()


@pytest.mark.invariant("ART-025")
@pytest.mark.parametrize("kind", ["lora", "lora-offsets", "dora-own-head"])
def test_a_folder_answers_alike_in_transformers_peft_and_as_its_export(
    trained: Callable[[str], Trained], kind: str, tmp_path: Path
) -> None:
    run, out = trained(kind), tmp_path / "whole"
    assert export([str(run.final), "--out", str(out)]) == 0
    wanted = model_answers(adapted(run.final, offsets=kind != "lora"), run.final, run.pictures, TEXT)
    assert transformers_answers(out, run.pictures, TEXT) == wanted
    if kind != "lora":
        alone = model_answers(adapted(run.final, offsets=False), run.final, run.pictures, TEXT)
        assert alone != wanted, "what the README says of peft alone"


@pytest.mark.invariant("ART-025")
def test_transformers_opens_an_adapter_folder_with_the_base_that_it_names(trained: Callable[[str], Trained]) -> None:
    run = trained("lora")
    wanted = model_answers(adapted(run.final, offsets=False), run.final, run.pictures, TEXT)
    assert transformers_answers(run.final, run.pictures, TEXT) == wanted


def swift_texts(pictures: tuple[Path, ...], **folder: Any) -> list[str]:
    """By `swift infer`, told of nothing but the folder."""
    from swift.arguments import InferArguments
    from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
    from swift.pipelines.utils import prepare_model_template

    model, template = prepare_model_template(InferArguments(**folder))
    # The class holds the real vocabulary's id as a number, and the tiny model has a cut one.
    template.image_token_id = template.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    engine = TransformersEngine(model, template=template, max_batch_size=1)
    asked = [
        InferRequest(messages=[{"role": "user", "content": f"<image>{TEXT}"}], images=[str(picture)])
        for picture in pictures
    ]
    written = engine.infer(asked, RequestConfig(max_tokens=96, temperature=0), use_tqdm=False)
    return [reply.choices[0].message.content for reply in written]


def texts_of(answers: Answers, folder: Path) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [tokenizer.decode([token for token in ids if token != stop]) for ids in answers]


@pytest.mark.invariant("ART-025")
@pytest.mark.parametrize("kind", ["full-offsets", "lora"])
def test_ms_swift_answers_as_transformers_from_the_folder_alone(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    told = {"model": str(run.final)} if kind.startswith("full") else {"adapters": [str(run.final)]}
    found = swift_texts(run.pictures, **told)
    assert found == texts_of(transformers_answers(run.final, run.pictures, TEXT), run.final)


@pytest.mark.invariant("ART-025")
def test_swift_export_merges_an_adapter_folder_and_is_told_nothing_else(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    run = trained("lora")
    done = subprocess.run(
        [
            sys.executable, "-c", "from swift.cli.export import export_main; export_main()",
            "--adapters", str(run.final), "--merge_lora", "true", "--output_dir", str(tmp_path / "merged"),
        ],
        env=subprocess_env({**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert export([str(run.run), "--out", str(tmp_path / "ours")]) == 0
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "ours"))
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-6, atol=1e-7)
    assert check_whole_model(tmp_path / "merged").rows == 1408


@pytest.mark.invariant("ART-024")
@pytest.mark.parametrize("torch_dtype", ["bfloat16", "float16"])
def test_a_type_that_is_asked_for_is_that_of_every_weight_rounded_once(
    trained: Callable[[str], Trained], torch_dtype: str, tmp_path: Path
) -> None:
    run = trained("dora-own-head")
    for name, asked in (("exact", "float32"), ("rounded", torch_dtype)):
        assert export([str(run.final), "--out", str(tmp_path / name), "--torch-dtype", asked]) == 0
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    kind = getattr(torch, torch_dtype)
    assert all(torch.equal(rounded[name], exact[name].to(kind)) for name in exact)
    config = json.loads((tmp_path / "rounded" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == torch_dtype and config["tie_word_embeddings"] is False


@pytest.mark.invariant("ART-024")
def test_the_type_of_a_run_is_kept(stage1_kit: Stage1Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from coordexp.training.stage1 import run_stage1

    path = stage1_kit.write(
        "export_bf16",
        model={"torch_dtype": "bfloat16"},
        tuner=LORA,
        training={"bf16": True},
        custom={"coord_offset": OFFSETS},
    )
    run_stage1(load_config(path))
    code, told, _ = tell([str(path.parent / "run"), "--out", str(tmp_path / "whole")], capsys)
    assert code == 0 and told.startswith(f"{tmp_path / 'whole'}: bfloat16, ")
    assert {tensor.dtype for tensor in load_file(tmp_path / "whole/model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.invariant("ART-024")
def test_offsets_beside_a_whole_model_are_left_behind(
    trained: Callable[[str], Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are merged in it already: earlier releases wrote both."""
    folder = tmp_path / "old"
    shutil.copytree(trained("full").final, folder)
    (folder / "checkpoint.json").unlink()
    shutil.copy(trained("lora-offsets").final / "coord_offset.safetensors", folder)
    shutil.copy(trained("lora-offsets").final / "coord_offset.json", folder)
    assert tell([str(folder), "--out", str(tmp_path / "whole")], capsys)[0] == 0
    assert check_whole_model(tmp_path / "whole").rows == 1408
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.invariant("ART-024")
def test_evaluate_takes_what_export_writes_and_names_the_command_for_an_adapter(
    trained: Callable[[str], Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from coordexp.entrypoints.evaluate import main as evaluate

    run, out = trained("lora-offsets"), tmp_path / "whole"
    given = ["--config", str(run.config), "--limit", "1", "--max-new-tokens", "4", "--checkpoint"]
    assert evaluate([*given, str(run.final)]) == 1
    line = capsys.readouterr().err.strip()
    command = f"python -m coordexp.entrypoints.export {run.final} --out {run.final}-whole"
    assert line.splitlines()[-1].endswith(f"not a whole model; make one of it, and name that: {command}")
    assert export([str(run.final), "--out", str(out)]) == 0
    assert evaluate([*given, str(out)]) == 0
