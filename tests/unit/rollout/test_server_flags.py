"""The rollout server's command line, against the contract and against ms-swift's own arguments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from swift.arguments import RolloutArguments
from transformers import HfArgumentParser

from coordexp.config import Config, load_config
from coordexp.rollout.serve import PLUGIN
from coordexp.rollout.server_flags import (
    ServerOptions,
    build_server_flags,
    declared_flags,
    server_address,
    server_dtype,
)

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
SERVED = (
    "stage2_two_channel/smoke/b_only",
    "stage2_two_channel/smoke/ab_mixed",
    "stage2_two_channel/prod/ab_mixed",
    "stage2_rollout_aligned/smoke/server",
)
CPU = ServerOptions("127.0.0.1", 8000, 1, 1, 0.2, True)
GPU = ServerOptions("127.0.0.1", 8000, 2, 3, 0.85, False)
PYTHON_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}


def parsed(flags: tuple[str, ...]) -> dict[str, Any]:
    """The values that ms-swift's parser makes of flags, before anything is built from them."""
    return vars(HfArgumentParser([RolloutArguments]).parse_args(list(flags)))


def flags_of(name: str, options: ServerOptions) -> tuple[Config, tuple[str, ...]]:
    config = load_config(CONFIGS / f"{name}.yaml")
    return config, build_server_flags(config, Path("/models/start"), options)


@pytest.mark.invariant("TRAIN-040")
@pytest.mark.parametrize("options", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", SERVED)
def test_the_flags_given_are_those_declared_each_once(name: str, options: ServerOptions) -> None:
    _, flags = flags_of(name, options)
    assert sorted(flags[::2]) == sorted(row["flag"] for row in declared_flags())
    assert len(set(flags[::2])) == len(flags[::2])


@pytest.mark.invariant("TRAIN-040")
@pytest.mark.parametrize("row", declared_flags(), ids=lambda row: row["flag"])
def test_a_declared_flag_is_an_argument_of_this_ms_swift_and_fits_its_type(row: Any) -> None:
    name = row["flag"].removeprefix("--")
    assert name in {field.name for field in dataclasses.fields(RolloutArguments)}
    _, flags = flags_of(SERVED[0], CPU)
    value = parsed(flags)[name]
    if name == "external_plugins":
        assert value == [str(PLUGIN)]
    else:
        assert type(value) is PYTHON_TYPES["string" if row["type"] == "path" else row["type"]]
    written = flags[flags.index(row["flag"]) + 1]
    assert row["type"] != "path" or Path(written).is_absolute()


@pytest.mark.invariant("TRAIN-040")
@pytest.mark.parametrize("name", SERVED)
def test_ms_swift_reads_what_the_configuration_means(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    rollout = config.rollout_matching
    assert rollout is not None and rollout.vllm is not None
    # Not what the shipped ones have, so that no other key can stand for it.
    vllm = dataclasses.replace(rollout.vllm, max_model_len=12345, enable_prefix_caching=False)
    rollout = dataclasses.replace(rollout, vllm=vllm)
    config = dataclasses.replace(config, rollout_matching=rollout)
    given = parsed(build_server_flags(config, Path("/models/start"), GPU))
    assert {key: given[key.removeprefix("--")] for key in ("model", "model_type", "template", "host", "port")} == {
        "model": "/models/start",
        "model_type": "qwen3_vl",
        "template": "qwen3_vl",
        "host": "127.0.0.1",
        "port": 8000,
    }
    assert (given["vllm_max_model_len"], given["vllm_enable_prefix_caching"]) == (12345, False)
    assert given["vllm_max_num_seqs"] == rollout.decode_batch_size * 2
    assert given["max_pixels"] == config.template.max_pixels
    assert given["torch_dtype"] == ("bfloat16" if "prod" in name else "float32")
    assert (given["vllm_tensor_parallel_size"], given["vllm_data_parallel_size"]) == (2, 3)
    assert (given["vllm_gpu_memory_utilization"], given["vllm_enforce_eager"]) == (0.85, False)
    assert (given["vllm_enable_lora"], given["vllm_use_async_engine"]) == (False, False)


@pytest.mark.invariant("TRAIN-040")
@pytest.mark.parametrize(
    ("training", "weights", "computed"),
    [({}, "float32", "float32"), ({"bf16": True}, "float32", "bfloat16"), ({"fp16": True}, "float32", "float16"),
     ({}, "bfloat16", "bfloat16")],
)  # fmt: skip
def test_the_server_computes_in_what_the_learner_computes_in(
    training: dict[str, bool], weights: Any, computed: str
) -> None:
    config = load_config(CONFIGS / f"{SERVED[0]}.yaml")
    model = dataclasses.replace(config.model, torch_dtype=weights)
    own = dataclasses.replace(config.training, **training)
    assert server_dtype(dataclasses.replace(config, model=model, training=own)) == computed


@pytest.mark.parametrize(
    ("url", "address"),
    [("http://127.0.0.1:8123", ("127.0.0.1", 8123)), ("http://localhost", ("localhost", 80)),
     ("https://gpu.lan", ("gpu.lan", 443))],
)  # fmt: skip
def test_a_base_url_names_host_and_port(url: str, address: tuple[str, int]) -> None:
    assert server_address(url) == address


@pytest.mark.invariant("TRAIN-040")
def test_a_declared_source_is_a_key_or_a_variable_that_there_is() -> None:
    from coordexp.config.rules import build_rule
    from coordexp.spec import check, contract_path, read_yaml

    variables = {
        row["name"] for row in check("environment", read_yaml(contract_path("cli/environment.yaml")))["variables"]
    }
    for row in declared_flags():
        for key in row["source"].get("config", ()):
            rule = build_rule()
            for part in key.split("."):
                rule = (rule.properties or {})[part]
        assert set(row["source"].get("launcher", ())) <= variables
