"""`python -m coordexp.rollout.serve FLAGS`: ms-swift's rollout server with the project's plugin. Contract id: ROLL-012.

FLAGS are those of `swift rollout` (`rollout.server_flags` derives them from a configuration). On a GPU it is that
command line and nothing else; on a CPU the same app through a subclass. It serves until it is told to end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.bridges import subprocess_env
from coordexp.encode.checkpoint import CheckpointFolderError, check_checkpoint_folder, check_no_adapter
from coordexp.rollout.activation import render_activation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.config.rollout_sections import RepeatTerminateConfig

API_KEY_VARIABLE = "COORDEXP_ROLLOUT_API_KEY"
"""Environment variable with the key that server and learner share; a command line would show it to every user."""
PLUGIN = Path(__file__).resolve().parent / "server_plugin" / "plugin.py"
CPU_CACHE_GB = 1


def has_gpu_driver() -> bool:
    """Whether this machine has an NVIDIA driver: what torch would say of a GPU, without importing it."""
    return shutil.which("nvidia-smi") is not None


def shared_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The key in `environment` (this process's by default), None where there is none or an empty one."""
    return (os.environ if environment is None else environment).get(API_KEY_VARIABLE) or None


def server_command(flags: Sequence[str]) -> tuple[str, ...]:
    """The process to start."""
    module = "swift.cli.rollout" if has_gpu_driver() else "coordexp.rollout.serve"
    return (sys.executable, "-m", module, *flags)


def server_environment(
    environment: Mapping[str, str], api_key: str, repeats: RepeatTerminateConfig | None = None
) -> dict[str, str]:
    """The environment of that process: bridges, no hub, the key, the engine inside the worker, and what ends answers
    that repeat themselves, whatever a shell happens to hold.
    """
    given = {
        **environment,
        **render_activation(repeats),
        API_KEY_VARIABLE: api_key,
        "HF_HUB_OFFLINE": "1",
        # In a process of its own the engine would not have imported the plugin.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if not has_gpu_driver():
        given = {"VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GB), **given}
    return subprocess_env(given)


def refusal(flags: Sequence[str]) -> str | None:
    """Why the checkpoint of `--model` is none that a server opens; None where it is, or where no folder is named."""
    named = [value for flag, value in itertools.pairwise(flags) if flag == "--model"]
    try:
        for folder in named:
            check_no_adapter(check_checkpoint_folder(folder))
    except CheckpointFolderError as error:
        return str(error)
    return None


def main(flags: Sequence[str]) -> None:
    """Become the server. A checkpoint that it cannot open ends the process with one message."""
    if told := refusal(flags):
        sys.exit(f"rollout server: {told}")
    if has_gpu_driver():
        command = server_command(flags)
        os.execve(command[0], command, dict(os.environ))
    from coordexp.bridges.swift_rollout_cpu import run_cpu_app

    run_cpu_app(flags)


if __name__ == "__main__":
    main(sys.argv[1:])
