"""Python files of a checkout as syntax trees, and the violation type. Folders in, `SourceFile`s out. POLICY-001."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

IMPORTERS = {"importlib.import_module", "__import__", "builtins.__import__"}
# Builtins that a rule watches under whatever name they are bound to.
WATCHED_BUILTINS = {"print", "input", "breakpoint", "eval", "exec", "Exception", "BaseException", "builtins"}
# What looks a module or an attribute up by its name: a name that can be told there is put in as a literal.
NAMED_BY_TEXT = {
    "import_module",
    "__import__",
    "getattr",
    "setattr",
    "hasattr",
    "delattr",
    "attrgetter",
    "methodcaller",
}
ALIAS_HOPS = 2
SKIPPED_PARTS = {"__pycache__", ".venv", "output", "mutants"}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One parsed module; `path` is relative to the checkout, with forward slashes."""

    path: str
    text: str
    tree: ast.Module

    @property
    def is_test(self) -> bool:
        """Whether the file lies below tests/."""
        return self.path.startswith("tests/")


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One breach of a rule; prints as `path:line message`."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.message}"


def parse_source(path: str, text: str) -> SourceFile:
    """A module from its text; raises SyntaxError."""
    tree = ast.parse(text, filename=path)
    told_names(tree)
    return SourceFile(path=path, text=text, tree=tree)


@lru_cache(maxsize=4096)
def _parsed(path: Path, shown: str, _written: tuple[int, int]) -> SourceFile:
    return parse_source(shown, path.read_text(encoding="utf-8"))


def read_sources(root: Path, folders: Sequence[str]) -> list[SourceFile]:
    """Every Python file below the folders. Raises FileNotFoundError for none: a scan of nothing would pass.

    A file is parsed once in a process, and again when it has changed.
    """
    found = [
        _parsed(path, path.relative_to(root).as_posix(), (path.stat().st_mtime_ns, path.stat().st_size))
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        if not SKIPPED_PARTS & set(path.relative_to(root).parts)
    ]
    if not found:
        raise FileNotFoundError(f"no Python file below {', '.join(folders)} in {root}")
    return found


def dotted_name(node: ast.AST) -> str:
    """`a.b.c` for a chain of names and attributes, "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted_name(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted_name(node.func)


def enclosing_functions(tree: ast.Module) -> dict[ast.AST, str]:
    """Each node -> the name of the innermost function around it; none for what no function holds."""
    owners: dict[ast.AST, str] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            owners.update(dict.fromkeys(ast.walk(function), function.name))
    return owners


def imported_names(tree: ast.Module, path: str = "") -> dict[str, str]:
    """Local name -> dotted origin, for every import statement at any depth; relative ones are resolved with `path`."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origins[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and (module := imported_module(node, path)):
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{module}.{alias.name}"
    return origins


def module_name(path: str) -> str:
    """`a.b` for a/b.py and for a/b/__init__.py."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_module(node: ast.ImportFrom, path: str) -> str:
    """The absolute name of what `from … import` reads; "" for a relative import in a file that has no package."""
    if not node.level:
        return node.module or ""
    package = path.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])]) if package else ""


@lru_cache(maxsize=4096)
def known_names(source: SourceFile) -> dict[str, str]:
    """Local name -> dotted origin: imports, and names bound to an imported name or to a builtin that rules watch."""
    origins = imported_names(source.tree, source.path)
    roots = WATCHED_BUILTINS | {origin.split(".")[0] for origin in origins.values()}
    for _ in range(ALIAS_HOPS):
        for target, value in bindings(source.tree):
            found = resolved_name(value, origins)
            if found and (found.split(".")[0] in roots or isinstance(value, ast.Call | ast.Subscript)):
                origins.setdefault(target, found)
    return origins


def bindings(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Every name that is bound to an expression, and that expression: assignments, annotated, paired and walrus too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from paired(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            yield from paired(node.target, node.value)


def bound_values(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """Each bound name with every expression that it is bound to."""
    bound: dict[str, list[ast.expr]] = {}
    for name, value in bindings(tree):
        bound.setdefault(name, []).append(value)
    return bound


def paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """`a, b = x, y` taken apart."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        for inner, part in zip(target.elts, value.elts, strict=False):
            yield from paired(inner, part)


def resolved_name(node: ast.AST, origins: dict[str, str]) -> str:
    """The dotted name of an expression, its first part replaced by where it was imported from; "" when it has none.

    Roundabout ways are followed: `getattr(m, "f")`, `import_module("m")`, `sys.modules["m"]`, `vars(m)["f"]`.
    """
    if isinstance(node, ast.Name):
        return origins.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return joined(resolved_name(node.value, origins), node.attr)
    if isinstance(node, ast.Call):
        return called_name(node, origins)
    if isinstance(node, ast.Subscript) and (key := text_of(node.slice)):
        owner = resolved_name(node.value, origins)
        if owner == "sys.modules":
            return key
        return joined(owner.removesuffix(".__dict__"), key) if owner.endswith(".__dict__") else ""
    return ""


def called_name(node: ast.Call, origins: dict[str, str]) -> str:
    """What a call gives, where it only looks a name up."""
    function = resolved_name(node.func, origins)
    first = text_of(node.args[0]) if node.args else ""
    if function in IMPORTERS:
        return first.lstrip(".")
    if function in ("getattr", "builtins.getattr") and len(node.args) > 1:
        return joined(resolved_name(node.args[0], origins), text_of(node.args[1]))
    if function in ("vars", "builtins.vars") and node.args:
        return joined(resolved_name(node.args[0], origins), "__dict__")
    return ""


def joined(owner: str, name: str) -> str:
    """`owner.name`, or "" when either is unknown."""
    return f"{owner}.{name}" if owner and name else ""


def text_of(node: ast.AST) -> str:
    """The text of a string literal, "" for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def told_names(tree: ast.Module) -> None:
    """Puts the text in place of constants and sums of literals where a module or an attribute is looked up by name."""
    times = Counter(name for name, _ in bindings(tree))
    times.update(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    constants = {name: text for name, text in string_constants(tree).items() if times[name] == 1}
    for node, name in calls(tree):
        if name.rpartition(".")[2] in NAMED_BY_TEXT:
            for at, part in enumerate(node.args):
                if text := told_text(part, constants):
                    node.args[at] = ast.copy_location(ast.Constant(text), part)


def told_text(node: ast.AST, constants: dict[str, str]) -> str:
    """The text that a literal, a constant, or a sum or f-string of them stands for; "" for what varies."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, "")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [told_text(node.left, constants), told_text(node.right, constants)]
    elif isinstance(node, ast.JoinedStr):
        values = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
        parts = [told_text(value, constants) for value in values]
    else:
        return text_of(node)
    return "".join(parts) if all(parts) else ""


def string_constants(tree: ast.Module) -> dict[str, str]:
    """Module-level names that are bound to a string literal."""
    constants: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            constants.update({t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)})
    return constants
