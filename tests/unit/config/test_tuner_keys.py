"""Tuner keys and types of weights: what is refused or warned of; names mean to peft what they mean here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.config import ConfigError, check_trainable, config_warnings, load_config
from coordexp.config.document import shipped_runs
from coordexp.config.layers import ADAPTABLE, Depths, module_kinds, saved_by, targets_of, targets_of_pattern
from coordexp.config.problems import render_path
from tests.unit.config.minimal import DOCUMENTS, STAGE1, problems, with_values, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordexp.config import Problem

ROOT = Path(__file__).resolve().parents[3]
TINY = Depths(text=2, vision=2, mergers=2)


def cases(name: str) -> list[Any]:
    """The cases of a file, each under its description."""
    rows = json.loads((ROOT / f"fixtures/config/{name}.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(row["input"], row["expect"], id=row["description"].replace(" ", "-")) for row in rows]


def written(folder: Path, given: dict[str, Any]) -> Path:
    return write(folder, with_values(DOCUMENTS[given["document"]], given["values"]))


def assert_told(told: Iterable[Problem], expected: dict[str, str]) -> None:
    """The problems stand at these paths, and hold these words, and there are no others."""
    found = {render_path(problem.path): str(problem) for problem in told}
    assert sorted(found) == sorted(expected)
    for path, words in expected.items():
        assert words in found[path]
        assert re.match(r"\S+/run\.yaml:\d+: ", found[path])


@pytest.mark.invariant("CONFIG-024")
@pytest.mark.parametrize(("given", "expected"), cases("tuner"))
def test_a_tuner_key_means_something_or_is_refused(tmp_path, given, expected):
    path = written(tmp_path, given)
    found: tuple[Problem, ...] = ()
    try:
        load_config(path)
    except ConfigError as error:
        found = error.problems
    assert_told(found, expected)


@pytest.mark.invariant("CONFIG-025")
@pytest.mark.invariant("CONFIG-026")
@pytest.mark.parametrize(("given", "expected"), cases("trainable"))
def test_weights_are_trained_in_a_type_that_holds_their_updates(tmp_path, given, expected):
    config = load_config(written(tmp_path, given))
    found: tuple[Problem, ...] = ()
    try:
        assert check_trainable(config) is config
    except ConfigError as error:
        found = error.problems
    assert_told(found, expected["refused"])
    assert_told(config_warnings(config), expected["warned"])


@pytest.mark.invariant("CONFIG-026")
@pytest.mark.parametrize("path", shipped_runs(ROOT / "configs"), ids=lambda path: path.stem)
def test_no_shipped_configuration_is_refused_or_warned_of(path):
    assert config_warnings(check_trainable(load_config(path))) == ()


@pytest.mark.invariant("CONFIG-024")
def test_the_modules_are_those_of_the_class():
    from torch import nn

    from tests.plugins.tiny_qwen import tiny_model

    def kind(module: nn.Module) -> str:
        convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        plain = {"linear": nn.Linear, "embedding": nn.Embedding, "conv": convolutions, "norm": nn.LayerNorm}
        if "rmsnorm" in type(module).__name__.lower():
            return "norm"
        return next((name for name, classes in plain.items() if isinstance(module, classes)), "other")

    found = {name: kind(module) for name, module in tiny_model().named_modules() if name}
    assert found == dict(module_kinds(TINY))


@pytest.mark.invariant("CONFIG-024")
@pytest.mark.parametrize(
    "entry",
    ["q_proj", "lm_head", "embed_tokens", "proj", "merger.linear_fc1", "model.visual.blocks.0.attn.qkv", "mlp.up_proj"],
)
def test_a_name_is_taken_for_the_layers_that_peft_takes_it_for(entry):
    assert adapted([entry]) == sorted(targets_of(entry, module_kinds(TINY)))


@pytest.mark.invariant("CONFIG-024")
@pytest.mark.parametrize("pattern", [".*q_proj", r".*layers\.1\..*_proj", ".*head", r".*pos_embed", ".*(proj|fc2)"])
def test_a_pattern_is_taken_for_the_layers_that_peft_takes_it_for(pattern):
    kinds = module_kinds(TINY)
    found = targets_of_pattern(re.compile(pattern), kinds)
    assert {kinds[name] for name in found} <= set(ADAPTABLE)
    assert adapted(pattern) == sorted(found)


@pytest.mark.invariant("CONFIG-024")
@pytest.mark.parametrize("entry", ["lm_head", "head", "visual.merger", "norm", "language_model", "score"])
def test_a_module_is_saved_where_peft_saves_it(entry):
    from peft.utils.other import ModulesToSaveWrapper

    wrapped = [name for name, module in tuned(["attn.qkv"], [entry]) if isinstance(module, ModulesToSaveWrapper)]
    found = saved_by(entry, module_kinds(TINY))
    assert sorted(wrapped) == sorted(found)


def adapted(target: list[str] | str) -> list[str]:
    """The modules that peft puts an adapter on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return sorted(name for name, module in tuned(target) if isinstance(module, BaseTunerLayer))


def tuned(target: list[str] | str, saved: list[str] | None = None) -> list[tuple[str, Any]]:
    """Names, as in the base model, and modules of a tiny Qwen3-VL below a LoRA adapter."""
    from peft import LoraConfig, get_peft_model

    from tests.plugins.tiny_qwen import tiny_model

    model = get_peft_model(tiny_model(), LoraConfig(target_modules=target, modules_to_save=saved))
    return [(name.removeprefix("base_model.model."), module) for name, module in model.named_modules()]


@pytest.mark.invariant("CONFIG-026")
def test_what_is_left_out_trains_float32_weights(tmp_path):
    config = load_config(write(tmp_path, STAGE1))
    assert (config.tuner.tuner_type, config.model.torch_dtype) == ("full", "float32")


@pytest.mark.invariant("CONFIG-027")
@pytest.mark.parametrize("key", ["fsdp", "training.fsdp", "training.fsdp_config"])
def test_fsdp_is_refused_with_the_reason(tmp_path, key):
    (problem,) = problems(tmp_path, with_values(STAGE1, {key: "full_shard"}))
    reason = "FSDP shards the output head, whose weight the objective reads whole"
    assert f": {key}: removed: delete it: {reason}" in problem


@pytest.mark.invariant("CONFIG-027")
@pytest.mark.parametrize("preset", ["zero3", "zero3_offload"])
def test_sharded_weights_are_refused_with_the_reason(tmp_path, preset):
    (problem,) = problems(tmp_path, with_values(STAGE1, {"deepspeed": {"enabled": True, "config": preset}}))
    assert f": deepspeed.config: '{preset}': ZeRO stage 3 shards the weights" in problem
    assert "Write zero2" in problem
