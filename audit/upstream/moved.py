"""Where a name that is gone can be found now: in, the recorded symbol; out, dotted places in the same package."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.upstream.describe import Record
    from audit.upstream.installed import Installed

_OF_CLASS = frozenset({"method", "classmethod", "staticmethod", "property", "field", "attribute"})
_SHOWN = 3


def find_moved(installed: Installed, symbol: str, record: Record) -> list[str]:
    """Up to three places that define the symbol's last name, the shortest first."""
    parts = symbol.split(".")
    name = parts[-1]
    member = record["kind"] in _OF_CLASS
    pattern = re.compile(rf"^{'[ ]+' if member else ''}(?:(?:async )?def |class )?{re.escape(name)}\b", re.MULTILINE)
    found: list[str] = []
    for module, path in installed.sources(parts[0]):
        if module.rpartition(".")[2] == name and record["kind"] == "module":
            found.append(module)
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if name in text and pattern.search(text):
            found += [f"{module}.{place}" for place in _definitions(ast.parse(text), name, member)]
    return sorted(set(found) - {symbol}, key=lambda place: (place.count("."), place))[:_SHOWN]


def _definitions(tree: ast.Module, name: str, member: bool) -> Iterator[str]:
    if not member and _defines(tree.body, name):
        yield name
    for node in ast.walk(tree):
        if member and isinstance(node, ast.ClassDef) and _defines(node.body, name):
            yield f"{node.name}.{name}"


def _defines(body: list[ast.stmt], name: str) -> bool:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False
