"""Whether documents tell the truth: every path, module, command and variable they name exists. POLICY-015.

Markdown text and a checkout in, violations out. What is read: fenced and indented code, `spans`, relative links.
"""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.policy.rules import declared_flags, documented_variables
from audit.policy.source import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = (
    "coordexp", "contracts", "fixtures", "tests", "configs", "scripts", "docs", "audit", "benchmarks", "requirements",
    ".ci",
)  # fmt: skip
FENCE = re.compile(r"^(```|~~~)")
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(re.escape(f) for f in FOLDERS)})/[\w./*<>{{}},-]*)")
MODULE = re.compile(r"(?<![\w./-])((?:coordexp|audit|benchmarks)(?:\.\w+)+)(?::([\w.]+))?")
RUN = re.compile(r"python(?:3[.\d]*)? -m ((?:coordexp|audit|benchmarks)[\w.]*)([^\n|;&`]*)")
TOX = re.compile(r"tox(?: run)? -e ([\w,]+)")
MARK = re.compile(r"pytest [^\n]*?-m [\"']?(?:not )?(\w+)")
VARIABLE = re.compile(r"\b(COORDEXP_[A-Z_]+|ROOT_IMAGE_DIR)\b")
OPTION = re.compile(r"(?<!\S)(--?[a-z][a-z-]*)")


@dataclass(frozen=True, slots=True)
class Checkout:
    """What documents may name."""

    root: Path
    variables: frozenset[str]
    environments: frozenset[str]
    markers: frozenset[str]
    flags: dict[str, frozenset[str]]


def read_checkout(root: Path) -> Checkout:
    """The names that exist, from the contracts, tox.ini and pyproject.toml of a checkout."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "tox.ini")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    markers = project["tool"]["pytest"]["ini_options"]["markers"]
    return Checkout(
        root=root,
        variables=documented_variables(),
        environments=frozenset(name.removeprefix("testenv:") for name in parser.sections()),
        markers=frozenset(re.split(r"[(:]", marker)[0] for marker in markers),
        flags=declared_flags(),
    )


def code_pieces(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every fenced or indented line of code, and of every code span outside those."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if FENCE.match(line.strip()):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield number, line
        else:
            yield from ((number, span) for span in SPAN.findall(line))


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


def broken_names(checkout: Checkout, code: str) -> Iterator[str]:
    """What one piece of code names that does not exist."""
    for written in PATH.findall(code):
        if not path_exists(checkout.root, written):
            yield f"{written} does not exist"
    for dotted, symbol in MODULE.findall(code):
        if not names_something(checkout.root, dotted, symbol):
            yield f"{dotted}{':' + symbol if symbol else ''} does not exist"
    for dotted, rest in RUN.findall(code):
        yield from broken_command(checkout, dotted, rest)
    for names in TOX.findall(code):
        yield from (f"tox has no environment {name}" for name in names.split(",") if name not in checkout.environments)
    for name in MARK.findall(code):
        if name not in checkout.markers:
            yield f"pytest has no marker {name}"
    for name in VARIABLE.findall(code):
        if name not in checkout.variables:
            yield f"{name} is not in contracts/cli/environment.yaml"


def broken_command(checkout: Checkout, dotted: str, rest: str) -> Iterator[str]:
    """What is wrong with `python -m dotted rest`: a package that cannot be run, or an option it does not take."""
    file = module_path(checkout.root, dotted)
    if file is not None and file.name == "__init__.py" and not file.with_name("__main__.py").exists():
        yield f"{dotted} cannot be run: it has no __main__"
    prefix, _, name = dotted.rpartition(".")
    if prefix == "coordexp.entrypoints":
        known = checkout.flags.get(f"coordexp/entrypoints/{name}.py", frozenset()) | {"--help", "-h"}
        yield from (f"{dotted} takes no {option}" for option in OPTION.findall(rest) if option not in known)


def broken_links(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Relative links that lead nowhere."""
    for number, line in enumerate(text.splitlines(), start=1):
        for target in LINK.findall(line):
            if not (path.parent / target).exists():
                yield number, f"the link {target} leads nowhere"


def drift(checkout: Checkout, path: Path, text: str) -> list[Violation]:
    """Everything a document names that does not exist."""
    shown = path.relative_to(checkout.root).as_posix()
    found = [(line, message) for line, code in code_pieces(text) for message in broken_names(checkout, code)]
    return sorted(Violation(shown, line, message) for line, message in [*found, *broken_links(path, text)])


def documents(root: Path) -> list[Path]:
    """The Markdown files of a checkout that people read: at its root, in docs/ and beside the fixtures."""
    return sorted({*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "fixtures").rglob("*.md")})
