"""The scratch copy that mutmut works in, `.audit/core/`: in, a checkout; out, a `Workspace` that may hold results.

What was judged is kept as long as nothing changed that could change a verdict; a list of survivors cannot.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.core import session
from audit.tree import listed_files

FOLDER = Path(".audit") / "core"
INPUTS_FILE = "inputs.txt"
MIXED_FILE = "mixed.txt"
# What the tests read besides the sources, the tests themselves and what they import of `tests`; folders end in a slash.
SUPPORT = (
    "audit/__init__.py", "audit/recording.py", "audit/tree.py", "audit/core/", "configs/", "contracts/",
    "docs/configuration.md", "fixtures/config/", "fixtures/coordjson/", "fixtures/packing/", "pyproject.toml",
    "tests/conftest.py", "tests/strategies.py", "fixtures/tiny-qwen3vl/",
)  # fmt: skip
NO_INFLUENCE = ("contracts/audit/",)


class CoreMutationError(Exception):
    """The run cannot be set up or did not end; the text says why."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """`place` holds the copy, `place/mutants` what mutmut made of it; `mixed`: with kills of an earlier tree."""

    root: Path
    place: Path
    mixed: bool

    @property
    def mutants(self) -> Path:
        """mutmut's own folder."""
        return self.place / "mutants"


def read_settings(root: Path) -> dict[str, Any]:
    """`[tool.mutmut]` of the checkout; `CoreMutationError` when there is none."""
    path = root / "pyproject.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = content["tool"].get("mutmut") if "tool" in content else None
    if settings is None:
        raise CoreMutationError(f"{path} has no [tool.mutmut]")
    return dict(settings)


def open_workspace(root: Path, fresh: bool = False, keep_kills: bool = False) -> Workspace:
    """The workspace of the files as they are now.

    Results are kept when nothing that matters changed since; `keep_kills` keeps the kills across a change, which makes
    the results good for looking at only.
    """
    place = root / FOLDER
    wanted = _wanted(root)
    digest = _digest(root, wanted)
    known = (place / INPUTS_FILE).read_text() if (place / INPUTS_FILE).is_file() else ""
    mixed = (place / MIXED_FILE).is_file()
    if fresh or not known or (digest != known and not keep_kills):
        shutil.rmtree(place, ignore_errors=True)
        mixed = False
    else:
        _drop_torn_files(place)
    if place.is_dir() and digest != known:
        mixed = True
        _forget_all_but_kills(place, read_settings(root)["source_paths"])
    _synchronise(root, place, wanted)
    if mixed:
        (place / MIXED_FILE).write_text("kills of an earlier tree are kept here\n")
    (place / INPUTS_FILE).write_text(digest)
    return Workspace(root, place, mixed)


def _wanted(root: Path) -> list[str]:
    settings = read_settings(root)
    selection = [entry for entry in settings["pytest_add_cli_args_test_selection"] if not entry.startswith("-")]
    chosen = (*settings["source_paths"], *selection)
    snapshots = {f"{Path(entry).parent}/__snapshots__/{Path(entry).stem}.ambr" for entry in selection}
    listed = listed_files(root)
    wanted = [
        name
        for name in listed
        if (name.startswith(SUPPORT) or name in snapshots or any(_below(name, entry) for entry in chosen))
        and not name.startswith(NO_INFLUENCE)
    ]
    return wanted + _imported_tests(root, wanted, listed)


def _imported_tests(root: Path, names: list[str], listed: list[str]) -> list[str]:
    """Modules of `tests` that the named ones import, inside functions too, and what those import in turn."""
    pending, found = [name for name in names if _is_test_module(name)], list[str]()
    left = {name for name in listed if _is_test_module(name)} - set(names)
    while pending:
        tree = ast.parse((root / pending.pop()).read_bytes())
        fresh = left & {f"{module.replace('.', '/')}.py" for node in ast.walk(tree) for module in _imports(node)}
        left -= fresh
        found += fresh
        pending += fresh
    return found


def _imports(node: ast.AST) -> list[str]:
    """Modules that a statement may import; `from a import b` may mean a module `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _is_test_module(name: str) -> bool:
    return name.startswith("tests/") and name.endswith(".py")


def _below(name: str, entry: str) -> bool:
    return name == entry or name.startswith(entry.rstrip("/") + "/")


def _digest(root: Path, names: list[str]) -> str:
    total = hashlib.sha256(importlib.metadata.version("mutmut").encode())
    for name in sorted(names):
        if not name.startswith("audit/core/"):
            total.update(f"\0{name}\0".encode())
            total.update((root / name).read_bytes())
    total.update(Path(session.__file__).read_bytes())
    return total.hexdigest()


def _synchronise(root: Path, place: Path, names: list[str]) -> None:
    """Copy what differs; files that stay the same keep their time, which mutmut compares."""
    for name in names:
        source, target = root / name, place / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _drop_torn_files(place: Path) -> None:
    """What mutmut was writing when it was killed: without the file and its mutants it writes both anew."""
    for path in (place / "mutants").rglob("*.py.meta"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            path.unlink()
            path.with_suffix("").unlink(missing_ok=True)


def _forget_all_but_kills(place: Path, sources: list[str]) -> None:
    """Drop copies, coverage and every verdict that is no kill; mutmut itself drops those of functions that changed."""
    kept = {*sources, "mutants", session.KILLS_FILE, INPUTS_FILE, MIXED_FILE}
    for entry in [*place.iterdir(), *(place / "mutants").iterdir()]:
        if entry.name not in kept:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for path in (place / "mutants").rglob("*.py.meta"):
        content = json.loads(path.read_text(encoding="utf-8"))
        codes = content["exit_code_by_key"]
        content["exit_code_by_key"] = {name: code if code == 1 else None for name, code in codes.items()}
        path.write_text(json.dumps(content), encoding="utf-8")
