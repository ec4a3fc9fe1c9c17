"""The machine that a run is on: processors, memory, GPUs and their driver, and the environment variables that the
project knows. Nothing of its network. Contract id: ART-064.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.provenance import unknown
from coordexp.rollout.serve import has_gpu_driver
from coordexp.spec import check, contract_path, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_CPUS = Path("/proc/cpuinfo")
_QUERY = ("name", "memory.total", "driver_version")
_MIB = 2**20


def read_hardware() -> dict[str, Any]:
    """Processors, memory and GPUs as the operating system and the driver name them."""
    gpus, driver = _read_gpus()
    return {
        "system": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count() or 1, "usable_cores": len(os.sched_getaffinity(0))},
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "gpu_driver": driver,
    }


def read_environment(shell: Mapping[str, str]) -> dict[str, str]:
    """What of `shell` the project knows, by name: the rows of contracts/cli/environment.yaml but those that are secret.

    A value that repeats a secret is left out too.
    """
    rows = check("environment", read_yaml(contract_path("cli/environment.yaml")))["variables"]
    hidden = [row["name"] for row in rows if row["secret"]]
    secrets = [shell[name] for name in hidden if shell.get(name)]
    shown = [row["name"] for row in rows if row["name"] in shell and not row["secret"]]
    return {name: shell[name] for name in shown if not any(secret in shell[name] for secret in secrets)}


def _cpu_model() -> str | dict[str, Any]:
    try:
        lines = _CPUS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return platform.processor() or unknown(f"{_CPUS}: {error.strerror}")
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models and models[0] else platform.processor() or unknown(f"{_CPUS} names no model")


def _read_gpus() -> tuple[Any, Any]:
    """The GPUs of the machine and the version of their driver; which of them the run sees is CUDA_VISIBLE_DEVICES."""
    if not has_gpu_driver():
        return [], unknown("no NVIDIA driver")
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return unknown(f"nvidia-smi: {error}"), unknown(f"nvidia-smi: {error}")
    if done.returncode != 0:
        told = unknown(f"nvidia-smi ends with {done.returncode}: {' '.join(done.stdout.split())[:200]}")
        return told, told
    return parse_gpus(done.stdout)


def parse_gpus(listed: str) -> tuple[Any, Any]:
    """What `nvidia-smi` lists, a line a GPU: name, MiB of memory, driver."""
    rows = [
        [part.strip() for part in line.rsplit(",", len(_QUERY) - 1)] for line in listed.splitlines() if line.strip()
    ]
    # A part of a divided GPU has no memory of its own to tell.
    gpus = [
        {"name": name, "memory_bytes": int(memory) * _MIB if memory.isdigit() else unknown(f"nvidia-smi: {memory}")}
        for name, memory, _ in rows
    ]
    return gpus, rows[0][-1] if rows else unknown("nvidia-smi lists no GPU")
