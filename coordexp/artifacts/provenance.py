"""What a run is made with: versions, where each framework comes from, and this project's own code. Nothing heavy is
imported. Contract ids: ART-001, ART-063.

What cannot be known is `{"unknown": "why"}`, never an empty value.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import coordexp
from coordexp.artifacts.files import hash_file, hash_folder
from coordexp.bridges.versions import STAND_INS, installed_version
from coordexp.spec import contracts_root

PACKAGES = ("torch", "transformers", "ms-swift", "vllm", "accelerate", "peft", "tokenizers", "safetensors", "numpy")
FRAMEWORKS = {"torch": "torch", "transformers": "transformers", "ms-swift": "swift", "vllm": "vllm"}
"""Distributions whose origin a run records, and the package that each is imported as."""
_GIT_SECONDS = 30


class ArtifactError(ValueError):
    """Files of a run that contradict each other, or that a run cannot tell of."""


@dataclass(frozen=True, slots=True)
class GitState:
    """Revision of a checkout and whether it has uncommitted changes; without a revision, `reason` says why."""

    revision: str | None
    dirty: bool | None
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        """As in the run manifest."""
        if self.revision is None or self.dirty is None:
            return unknown(self.reason or "git does not tell")
        return {"revision": self.revision, "dirty": self.dirty}


def unknown(reason: str) -> dict[str, Any]:
    """How the run manifest says that something cannot be known."""
    return {"unknown": reason}


def read_versions() -> dict[str, str | None]:
    """Installed version of Python and of each package of `PACKAGES`; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = installed_version(name)
    return versions


def read_git_state(folder: Path) -> GitState:
    """State of the checkout that holds the files of `folder`.

    A folder that lies in a checkout without belonging to it, as an environment's site-packages may, has none.
    """
    revision, refusal = _git(folder, "rev-parse", "HEAD")
    tracked, _ = _git(folder, "ls-files", "--", ".")
    if revision is None:
        return GitState(None, None, refusal)
    if not tracked:
        return GitState(None, None, f"{folder} lies in a checkout of something else")
    status, refusal = _git(folder, "status", "--porcelain")
    return GitState(revision, None if status is None else bool(status), refusal)


def read_source() -> dict[str, Any]:
    """This project's own code and contracts; the digests tell one dirty checkout from another."""
    folder = Path(coordexp.__file__).parent
    return {
        "version": coordexp.__version__,
        "git": read_git_state(folder).document(),
        "code_sha256": hash_folder(folder, "*.py"),
        "contracts_sha256": hash_folder(contracts_root()),
    }


def read_frameworks() -> dict[str, Any]:
    """The origin of each of `FRAMEWORKS`."""
    return {name: read_upstream(name, package) for name, package in FRAMEWORKS.items()}


def read_upstream(distribution: str, package: str) -> dict[str, Any]:
    """Where `package`, which `distribution` or what stands in for it provides, is imported from, and what identifies
    it.

    That is the SHA-256 of its wheel's RECORD, which lists the hash of every installed file; the git state of a
    checkout; or else a digest of its Python files.
    """
    found, spec = _distribution(distribution), importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return unknown(f"{distribution} is not installed")
    place = Path(spec.origin)
    version = unknown("it has no metadata") if found is None else found.version
    origin = {"version": version, "path": str(place.parent)}
    record = None if found is None else found.read_text("RECORD")
    if found is not None and record is not None and _is_of_wheel(found, package, record, place):
        return {**origin, "kind": "wheel", "record_sha256": _hash_record(found, record)}
    git = read_git_state(place.parent)
    if git.revision is not None:
        return {**origin, "kind": "checkout", "git": git.document()}
    return {**origin, "kind": "folder", "code_sha256": hash_folder(place.parent, "*.py")}


def _distribution(name: str) -> metadata.Distribution | None:
    for candidate in (name, STAND_INS.get(name)):
        if candidate is not None:
            try:
                return metadata.distribution(candidate)
            except metadata.PackageNotFoundError:
                continue
    return None


def _is_of_wheel(found: metadata.Distribution, package: str, record: str, place: Path) -> bool:
    """Whether what is imported is the file that the wheel installed: a folder earlier on the path would hide it."""
    relative = f"{package}/{place.name}"
    listed = any(line.startswith(f"{relative},") for line in record.splitlines())
    return listed and os.path.realpath(str(found.locate_file(relative))) == os.path.realpath(place)


def _hash_record(found: metadata.Distribution, record: str) -> str:
    """SHA-256 of RECORD's bytes; it lists itself. Its text alone would not do: reading it changes the ends of lines."""
    own = [line.rsplit(",", 2)[0] for line in record.splitlines() if line.endswith(".dist-info/RECORD,,")]
    place = Path(str(found.locate_file(own[0]))) if own else None
    return hash_file(place) if place is not None and place.is_file() else hashlib.sha256(record.encode()).hexdigest()


def _git(folder: Path, *arguments: str) -> tuple[str | None, str | None]:
    """What git says, or why it says nothing."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except FileNotFoundError:
        return None, "git is not installed"
    except subprocess.TimeoutExpired:
        return None, f"git does not answer within {_GIT_SECONDS} s"
    if done.returncode == 0:
        return done.stdout.strip(), None
    return None, " ".join(done.stderr.split()) or f"git {arguments[0]} ends with {done.returncode}"
