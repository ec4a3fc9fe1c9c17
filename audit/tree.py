"""Identifies the tree that results belong to: in, a checkout; out, the git tree id of its files as they are now.

Committed, changed and new files count alike (ignored ones do not), so committing a tested tree keeps its results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class NotACheckoutError(Exception):
    """The folder is no git checkout, so its results cannot be tied to a tree."""


def read_tree_id(root: Path) -> str:
    """Id of the tree object of the working files of `root`; the repository itself is left as it was."""
    git_dir = Path(_git(root, "rev-parse", "--absolute-git-dir").strip())
    common = Path(_git(root, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    with tempfile.TemporaryDirectory(prefix="audit-tree-") as scratch:
        index = Path(scratch) / "index"
        if (git_dir / "index").exists():
            shutil.copy2(git_dir / "index", index)
        objects = Path(scratch) / "objects"
        objects.mkdir()
        environment = {
            **os.environ,
            "GIT_INDEX_FILE": str(index),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(common / "objects"),
        }
        _look_at_all(root, environment)
        _git(root, "add", "--all", environment=environment)
        return _git(root, "write-tree", environment=environment).strip()


def _look_at_all(root: Path, environment: dict[str, str]) -> None:
    """Clear the flags by which an index passes over files: they would hide changes from the id."""
    listed = _git(root, "ls-files", "-v", "-z", environment=environment).split("\0")
    flagged = [entry[2:] for entry in listed if entry and (entry[0].islower() or entry[0] == "S")]
    if flagged:
        for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
            _git(root, "update-index", flag, "--", *flagged, environment=environment)


def read_head(root: Path) -> str:
    """Short id of the commit that is checked out, or an empty string before the first commit."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def changed_files(root: Path) -> set[str]:
    """Paths that differ from HEAD, new files included, relative to `root`."""
    listed = _git(root, "diff", "--name-only", "--relative", "HEAD") + _git(
        root, "ls-files", "-o", "--exclude-standard"
    )
    return set(listed.split("\n")) - {""}


def listed_files(root: Path) -> list[str]:
    """Every file of the checkout that git does not ignore, relative to `root`, existing ones only."""
    listed = _git(root, "ls-files", "-c", "-o", "--exclude-standard", "-z").split("\0")
    return [name for name in dict.fromkeys(listed) if name and (root / name).is_file()]


def _git(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    command = ["git", "-c", "core.quotepath=off", *arguments]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    if answer.returncode != 0:
        raise NotACheckoutError(f"git {arguments[0]} failed in {root}: {answer.stderr.strip()}")
    return answer.stdout
