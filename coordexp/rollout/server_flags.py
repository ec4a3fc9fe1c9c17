"""The command line of the rollout server, derived from the configuration that the learner reads. TRAIN-040.

In: a configuration, the checkpoint's folder and what only the machine decides. Out: the flags of `swift rollout` that
contracts/cli/rollout_flags.yaml declares. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit

from coordexp.rollout.serve import PLUGIN
from coordexp.spec import check, contract_path, read_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.config import Config
    from coordexp.config.rollout_sections import RolloutMatchingConfig, VllmConfig

_DEFAULT_PORTS = {"http": 80, "https": 443}


class DeclaredFlag(TypedDict):
    """A row of contracts/cli/rollout_flags.yaml."""

    flag: str
    type: str
    source: dict[str, Any]
    meaning: str


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the YAML does not say, because it belongs to the machine: address, devices and how they are used."""

    host: str
    port: int
    tensor_parallel: int
    data_parallel: int
    gpu_memory_utilization: float
    enforce_eager: bool


def declared_flags() -> tuple[DeclaredFlag, ...]:
    """The rows of contracts/cli/rollout_flags.yaml, in the order in which the flags are given."""
    return tuple(check("rollout-flags", read_yaml(contract_path("cli/rollout_flags.yaml")))["flags"])


def server_address(base_url: str) -> tuple[str, int]:
    """Host and port that a base URL names."""
    url = urlsplit(base_url)
    assert url.hostname is not None, "the schema of base_url asks for a host"
    return url.hostname, _DEFAULT_PORTS[url.scheme] if url.port is None else url.port


def server_dtype(config: Config) -> str:
    """The data type that the learner computes in, so that both answer alike."""
    if config.training.bf16:
        return "bfloat16"
    return "float16" if config.training.fp16 else config.model.torch_dtype


def vllm_sections(config: Config) -> tuple[RolloutMatchingConfig, VllmConfig]:
    """`rollout_matching` and its `vllm`, which the loader demands of `rollout_backend: vllm`."""
    rollout = config.rollout_matching
    assert rollout is not None and rollout.vllm is not None
    return rollout, rollout.vllm


def build_server_flags(config: Config, model_folder: Path, options: ServerOptions) -> tuple[str, ...]:
    """The flags of `swift rollout`, each followed by its value."""
    rollout, vllm = vllm_sections(config)
    values: dict[str, object] = {
        "--model": model_folder,
        "--model_type": config.model.model_type,
        "--template": config.template.template,
        "--max_pixels": config.template.max_pixels,
        "--torch_dtype": server_dtype(config),
        "--host": options.host,
        "--port": options.port,
        "--vllm_max_model_len": vllm.max_model_len,
        "--vllm_enable_prefix_caching": vllm.enable_prefix_caching,
        "--vllm_max_num_seqs": rollout.decode_batch_size * options.tensor_parallel,
        "--vllm_tensor_parallel_size": options.tensor_parallel,
        "--vllm_data_parallel_size": options.data_parallel,
        "--vllm_gpu_memory_utilization": options.gpu_memory_utilization,
        "--vllm_enforce_eager": options.enforce_eager,
        "--external_plugins": PLUGIN,
    }
    fixed = {row["flag"]: row["source"]["fixed"] for row in declared_flags() if "fixed" in row["source"]}
    return tuple(text for flag, value in {**values, **fixed}.items() for text in (flag, _written(value)))


def _written(value: object) -> str:
    """A value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
