"""Paths, files, modules and symbols that documents name, and whether they are there. POLICY-015.

A piece of code or a line of prose in, complaints about what a checkout does not have out.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from audit.policy.mentions import meant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from audit.policy.words import Vocabulary

FOLDERS = (
    "coordexp", "contracts", "fixtures", "tests", "configs", "scripts", "docs", "audit", "benchmarks", "requirements",
    ".ci",
)  # fmt: skip
PATH = re.compile(rf"(?<![\w./-])(?:\./)?((?:{'|'.join(re.escape(f) for f in FOLDERS)})/[\w./*<>{{}},-]*)")
MODULE = re.compile(r"(?<![\w./-])((?:coordexp|audit|benchmarks)(?:\.\w+)+)(?::([\w.]+))?")
SOURCES = ("py", "yaml", "yml", "md", "sh", "toml", "ini", "cfg", "lark", "j2")
DATA = ("jsonl", "json", "png", "jpg", "html", "txt", "safetensors")
FILE = re.compile(
    rf"(?<![\w./<>*{{}}~$-])((?:[\w.<>*-]+/)*[\w.<>*-]*[\w>*]\.({'|'.join((*SOURCES, *DATA))}))(?![\w(/]|[.-]\w)"
)
SYMBOL = re.compile(r"(?<![\w./-])([\w./-]+\.py):([A-Za-z_]\w*)")
WRITTEN = ("output", "tb", ".audit", ".venv")
"""Folders that runs, the audit and set-up write; what stands in them is nobody's contract."""
GIVEN = ("data", "images")
"""Folders of users, where only data may be."""


def broken_places(root: Path, vocabulary: Vocabulary, code: str, folder: Path) -> Iterator[str]:
    """Paths, files and modules that a text in `folder` names and that do not exist."""
    for written in PATH.findall(code):
        if not path_exists(root, written):
            yield f"{written} does not exist"
    for written, suffix in FILE.findall(code):
        if written.removeprefix("./").split("/")[0] not in FOLDERS:
            yield from _broken_file(root, vocabulary, written, suffix, folder)
    for file, symbol in SYMBOL.findall(code):
        if (root / file).is_file() and not has_symbol(root / file, symbol):
            yield f"{file} has no {symbol}"
    for dotted, symbol in MODULE.findall(code):
        if not names_something(root, dotted, symbol):
            yield f"{dotted}{':' + symbol if symbol else ''} does not exist"


def _broken_file(root: Path, vocabulary: Vocabulary, written: str, suffix: str, folder: Path) -> Iterator[str]:
    first, slash, _ = written.partition("/")
    if not slash:
        # One letter stands for any name: `--config x.yaml`.
        if written not in vocabulary.files and "*" not in written and "<" not in written and written.find(".") > 1:
            yield f"no file is called {written}{meant(written, sorted(vocabulary.files))}"
    elif first == "..":
        # An `extends` starts at the file that holds it, which may be any.
        tail = written.removeprefix("../")
        if next(root.glob(f"*/**/{tail}"), None) is None:
            yield f"{written} does not exist"
    elif first in WRITTEN or (suffix in DATA and (first in GIVEN or first.startswith("<"))):
        return
    elif not path_exists(root, written) and not path_exists(folder, written):
        yield f"{written} does not exist"


def module_path(root: Path, dotted: str) -> Path | None:
    """The file of a module or package, or None."""
    base = root.joinpath(*dotted.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return base if base.is_dir() and any(base.glob("*.py")) else None


def has_symbol(file: Path, symbol: str) -> bool:
    """Whether a module file defines or imports the first part of a dotted symbol."""
    if file.is_dir():
        return False
    first = symbol.split(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == first:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) == first:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == first:
            return True
    return False


def names_something(root: Path, dotted: str, symbol: str) -> bool:
    """Whether `a.b.c` (or `a.b:symbol`) is a module, or a symbol of the module before its last part."""
    file = module_path(root, dotted)
    if file is not None:
        return not symbol or has_symbol(file, symbol)
    parent, _, last = dotted.rpartition(".")
    owner = module_path(root, parent) if parent else None
    return owner is not None and has_symbol(owner, last)


def path_exists(root: Path, written: str) -> bool:
    """Whether a path exists; `<name>` and `*` stand for anything, `{a,b}` for each of its parts."""
    braces = re.search(r"\{([^{}]*)\}", written)
    if braces:
        parts = braces.group(1).split(",")
        return all(path_exists(root, written.replace(braces.group(), part.strip(), 1)) for part in parts)
    pattern = re.sub(r"<[^>]*>", "*", written).rstrip("/.,")
    if "*" in pattern:
        return next(root.glob(pattern), None) is not None
    return (root / pattern).exists()
