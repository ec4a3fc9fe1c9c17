"""What people wrote (paths, names, texts) is shown as it is: no console of the project reads markup or emoji codes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import coordexp

ROOT = Path(coordexp.__file__).parent


@pytest.mark.invariant("DATA-062")
def test_no_console_reads_markup() -> None:
    """`[v2]` in a path would be taken for a style, `:cat:` for a picture."""
    found = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                off = {
                    word.arg for word in node.keywords if isinstance(word.value, ast.Constant) and not word.value.value
                }
                found[f"{path.relative_to(ROOT)}:{node.lineno}"] = {"markup", "emoji"} <= off
    assert len(found) > 5 and all(found.values()), [place for place, plain in found.items() if not plain]
