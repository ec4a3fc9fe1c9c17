"""What a run was made with: package versions, git revision, ms-swift's origin. Nothing heavy is imported. Contract
id: ART-001.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from coordexp.bridges.versions import installed_version

PACKAGES = ("torch", "transformers", "ms-swift", "vllm", "accelerate", "peft", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class GitState:
    """Revision of a checkout and whether it has uncommitted changes; both None outside a checkout."""

    revision: str | None
    dirty: bool | None

    def document(self) -> dict[str, Any]:
        """As in the run manifest."""
        return {"revision": self.revision, "dirty": self.dirty}


def read_versions() -> dict[str, str | None]:
    """Installed version of Python and of each package of `PACKAGES`; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = installed_version(name)
    return versions


def read_git_state(folder: Path) -> GitState:
    """State of the checkout that holds `folder`."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return GitState(None, None)
    status = _git(folder, "status", "--porcelain")
    return GitState(revision, None if status is None else bool(status))


def read_upstream(distribution: str, package: str) -> dict[str, Any] | None:
    """Where an installed distribution comes from: version, folder, SHA-256 of its wheel RECORD, and git state.

    The RECORD lists the hash of every installed file, so its hash identifies the code; the git state is that of a
    source checkout when the package is installed in place. None when the distribution is not installed.
    """
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    record = found.read_text("RECORD")
    folder = Path(str(found.locate_file(package)))
    in_place = record is None or f"{package}/__init__.py" not in record
    git = read_git_state(folder) if in_place else GitState(None, None)
    return {
        "version": found.version,
        "path": str(folder),
        "record_sha256": None if record is None else hashlib.sha256(record.encode()).hexdigest(),
        "git": git.document(),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
