"""How `scripts/train.sh` becomes one process or a torchrun group. Environment in, command out. No torch.

`config` names the YAML (relative to the checkout, or absolute); `gpus` lists device indices (`0,1`). Without `gpus` the
run takes the first GPU, or the CPU where there is none. POLICY-018.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.rollout.serve import has_gpu_driver

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).resolve().parents[2]
ENTRY_POINT = "coordexp.entrypoints.train"
USAGE = "config=configs/stage1/smoke/shapes.yaml gpus=0,1 bash scripts/train.sh"


class LaunchError(Exception):
    """A launch that cannot begin, with what to write instead."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The configuration, the command to run with it, and the variables to set for the command."""

    config: Path
    command: tuple[str, ...]
    environment: dict[str, str]


def resolve_config(value: str, usage: str = USAGE) -> Path:
    """The configuration's file; relative paths start at the checkout, whatever the caller's folder is."""
    if not value:
        raise LaunchError(f"config is not set; write: {usage}")
    path = Path(value) if Path(value).is_absolute() else CHECKOUT / value
    if not path.is_file():
        raise LaunchError(f"config={value}: no such file {path}; relative paths start at {CHECKOUT}")
    return path


def parse_gpus(value: str, variable: str = "gpus") -> tuple[int, ...]:
    """Device indices of `variable`; empty when it is unset or empty."""
    if not value.strip():
        return ()
    parts = [part.strip() for part in value.split(",")]
    if not all(re.fullmatch("[0-9]+", part) for part in parts):
        # "0 1 2" is three devices to its author, and device 12 to whoever squeezes spaces.
        meant = ",".join(re.findall("[0-9]+", value)) if re.fullmatch("[0-9 ]+", value) else "0,1"
        raise LaunchError(f"{variable}={value}: give device indices separated by commas, such as {variable}={meant}")
    devices = tuple(int(part) for part in parts)
    if len(set(devices)) != len(devices):
        raise LaunchError(f"{variable}={value}: a device is named twice")
    return devices


def check_devices(devices: tuple[int, ...], count: int | None, variable: str = "gpus") -> tuple[int, ...]:
    """Return `devices` if the machine has them: torch sees none of a list that names one beyond the last.

    `count` is the number of GPUs, None where nobody knows it. Raises LaunchError.
    """
    beyond = [device for device in devices if count is not None and device >= count]
    if beyond:
        named = ",".join(str(device) for device in devices)
        have = f"has {count} GPUs, 0..{count - 1}" if count else "has no GPU"
        raise LaunchError(f"{variable}={named}: there is no device {beyond[0]}; this machine {have}")
    return devices


def count_gpus() -> int | None:
    """Number of GPUs that the driver lists; None without a driver, or when it does not answer."""
    if not has_gpu_driver():
        return None
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else None


def build_launch(environment: Mapping[str, str], *, gpu_driver: bool, gpu_count: int | None = None) -> Launch:
    """One process for at most one GPU, torchrun for several. Raises LaunchError for variables that make no launch."""
    config = resolve_config(environment.get("config", ""))
    devices = check_devices(parse_gpus(environment.get("gpus", "")), gpu_count)
    if devices and not gpu_driver:
        raise LaunchError("gpus is set and there is no NVIDIA driver; leave gpus unset to train on the CPU")
    command = [sys.executable, "-m"]
    if len(devices) > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(len(devices)), "-m"]
    command += [ENTRY_POINT, "--config", str(config)]
    if devices:
        visible = ",".join(str(device) for device in devices)
    elif gpu_driver:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "0")
    else:
        visible = ""
    return Launch(config=config, command=tuple(command), environment={"CUDA_VISIBLE_DEVICES": visible})
