"""Whether what is installed is what is locked. A lock's text and installed versions in, differences out. POLICY-017."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$")


def canonical(name: str) -> str:
    """The normalized form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_lock(text: str) -> dict[str, str]:
    """Canonical name -> version of each line. Raises ValueError for a line that pins nothing or pins again."""
    pins: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = PIN.match(line)
        if match is None:
            raise ValueError(f"line {number} of the lock pins nothing: {line!r}; regenerate it with scripts/lock.py")
        name = canonical(match.group(1))
        if name in pins:
            raise ValueError(f"line {number} of the lock pins {name} a second time; regenerate it with scripts/lock.py")
        pins[name] = match.group(2)
    return pins


def installed_versions() -> dict[str, str]:
    """Canonical name -> version of every distribution of this environment; a local part (`+cpu`) is dropped."""
    found = [(d.metadata["Name"], d.version) for d in metadata.distributions()]
    return {canonical(name): version.split("+")[0] for name, version in found if name}


def differences(pins: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Locked packages that are absent or of another version, one line each."""
    return [
        f"{name}: locked {version}, installed {installed.get(name, 'not at all')}"
        for name, version in sorted(pins.items())
        if installed.get(name) != version
    ]


def lock_in_use(installed: Mapping[str, str]) -> str:
    """Which lock an environment was made from: the engine tells."""
    return "gpu" if "vllm" in installed else "cpu"
