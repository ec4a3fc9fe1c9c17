"""Configurations that a stage-2 launch can begin from, with free ports and records that exist."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs/stage2_two_channel/smoke/b_only.yaml"


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    trials = [socket.socket() for _ in range(count)]
    for trial in trials:
        trial.bind(("127.0.0.1", 0))
    ports = [trial.getsockname()[1] for trial in trials]
    for trial in trials:
        trial.close()
    return ports


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it, section by section."""
    both = {key: merge(base[key], value) if isinstance(base.get(key), dict) and isinstance(value, dict) else value
            for key, value in over.items()}  # fmt: skip
    return {**base, **both}


def write_launch(folder: Path, extends: Path = SHIPPED, **sections: dict[str, Any]) -> Path:
    """A YAML in `folder` that extends a shipped one, with ports and folders of its own; `sections` override it."""
    http, group = free_ports(2)
    (folder / "records.jsonl").touch()
    servers = [{"base_url": f"http://127.0.0.1:{http}", "group_port": group}]
    document: dict[str, Any] = {
        "extends": str(extends),
        "training": {"output_dir": str(folder / "run"), "logging_dir": str(folder / "tb"), "add_version": False},
        "custom": {"train_jsonl": "records.jsonl", "val_jsonl": "records.jsonl"},
        "rollout_matching": {"vllm": {"server": {"servers": servers}}},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(merge(document, sections)), encoding="utf-8")
    return path


@pytest.fixture
def launch_config(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a launchable configuration into a project of its own; keyword arguments override it."""
    folder = tmp_path / "project"
    folder.mkdir()
    # The project's root, so that relative paths of the copy start here and nowhere else.
    (folder / "pyproject.toml").touch()
    (folder / "fixtures").symlink_to(ROOT / "fixtures")

    def write(extends: Path = SHIPPED, **sections: dict[str, Any]) -> Path:
        return write_launch(folder, extends, **sections)

    return write
