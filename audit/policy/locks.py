"""Whether what is installed is what is locked, and what is imported is declared. POLICY-017.

A lock's text and installed versions in, differences out; sources and declared packages in, violations out.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from importlib import metadata
from typing import TYPE_CHECKING

from audit.policy.source import SourceFile, Violation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

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
    # Of its own folder: setuptools, once imported, puts copies of its own on the path.
    found = [(d.metadata["Name"], d.version) for d in metadata.distributions(path=[sysconfig.get_path("purelib")])]
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


def undeclared_imports(
    sources: Iterable[SourceFile], declared: Collection[str], providers: Mapping[str, Sequence[str]]
) -> Iterator[Violation]:
    """Imports of third-party packages that no declared distribution provides.

    `declared` holds canonical names; `providers` maps a package to distributions, as
    `importlib.metadata.packages_distributions` does.
    """
    files = list(sources)
    # A start-up folder's modules import each other by their bare names.
    own = {part.removesuffix(".py") for file in files for part in (file.path.split("/")[0], file.path.split("/")[-1])}
    for source in files:
        for node in ast.walk(source.tree):
            for name in _imported(node):
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top in own:
                    continue
                owners = sorted({canonical(owner) for owner in providers.get(top, ())})
                if not set(owners) & set(declared):
                    names = " or ".join(owners) or top
                    text = f"{top} is imported, but {names} is no declared dependency"
                    yield Violation(source.path, getattr(node, "lineno", 1), text)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
