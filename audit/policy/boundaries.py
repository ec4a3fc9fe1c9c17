"""What may happen in one place only: JSON, YAML, print, the environment, flags. POLICY-007 to 011, 013, 014."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from audit.policy.source import Violation, calls, dotted_name, imported_names, resolved_name, string_constants

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from audit.policy.source import SourceFile

JSON_PARSERS = {"json.load", "json.loads", "json.JSONDecoder", "json.decoder.JSONDecoder"}
JSON_PACKAGES = {"orjson", "ujson", "simplejson", "json_repair", "json5", "ijson", "demjson3"}
# path -> what it reads. Assistant text is parsed by coordexp.coordjson alone, after it is transpiled to strict JSON.
JSON_READERS: dict[str, str] = {
    "coordexp/spec/documents.py": "contract files and fixtures",
    "coordexp/data/rules.py": "lines of a record file",
    "coordexp/coordjson/scan.py": "the string literal of a desc that holds an escape, once its grammar is checked",
    "coordexp/forward/coord_offset_files.py": "the description beside an adapter's weights",
    "coordexp/training/manifest.py": "the resolved configuration, on its way into the run manifest",
}
UNSAFE_CALLS = {
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "pickle.load", "pickle.loads",
    "marshal.loads", "dill.load", "dill.loads", "eval", "exec",
}  # fmt: skip
UNSAFE_YAML = {
    "yaml.Loader",
    "yaml.UnsafeLoader",
    "yaml.FullLoader",
    "yaml.CLoader",
    "yaml.CUnsafeLoader",
    "yaml.CFullLoader",
}
CONFIG_NAME = re.compile(r"^(self\.)?(config|cfg|conf|.*_cfg|resolved_config|raw_config)(\.|$)")
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b")
BINS = 1000
DIVIDERS = {"div", "divide", "true_divide", "floor_divide", "div_"}


def prints(source: SourceFile) -> Iterator[Violation]:
    """Calls of print: entry points speak through rich, libraries do not speak."""
    for node, name in calls(source.tree):
        if name in ("print", "builtins.print"):
            yield Violation(source.path, node.lineno, "print: entry points use rich's console, libraries log")


def unfinished_marks(source: SourceFile) -> Iterator[Violation]:
    """Comments or strings that say something is left to do."""
    for number, line in enumerate(source.text.splitlines(), start=1):
        if UNFINISHED.search(line):
            yield Violation(source.path, number, "unfinished work: finish it, or file an issue and drop the mark")


def json_outside_boundary(source: SourceFile) -> Iterator[Violation]:
    """JSON parsed outside JSON_READERS, by the standard library or by another parser."""
    if source.path in JSON_READERS:
        return
    origins = imported_names(source.tree)
    found: dict[int, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = resolved_name(node, origins)
            if name in JSON_PARSERS or name.split(".")[0] in JSON_PACKAGES:
                found.setdefault(node.lineno, name)
    for line, name in found.items():
        yield Violation(source.path, line, f"{name}: JSON is parsed only in the modules of JSON_READERS")


def names_of_thousand(sources: Iterable[SourceFile]) -> frozenset[str]:
    """Names that any of the modules binds to the number of bins."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assign) and is_thousand(node.value, frozenset()):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and node.value is not None and is_thousand(node.value, frozenset()):
                found |= {node.target.id} if isinstance(node.target, ast.Name) else set()
    return frozenset(found)


def is_thousand(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether an expression is the literal 1000, in any notation, or one of the names for it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value == BINS
    if isinstance(node, ast.Call) and dotted_name(node.func) in ("float", "int") and len(node.args) == 1:
        return is_thousand(node.args[0], names)
    return dotted_name(node).rpartition(".")[2] in names


def is_thousandth(node: ast.AST) -> bool:
    """Whether an expression is the literal 0.001."""
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value == 0.001


def divides_by_thousand(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether one node divides by 1000, or multiplies by 0.001, as an operator or as a call of a tensor library."""
    if isinstance(node, ast.BinOp | ast.AugAssign):
        right = node.right if isinstance(node, ast.BinOp) else node.value
        left = node.left if isinstance(node, ast.BinOp) else node.target
        if isinstance(node.op, ast.Div | ast.FloorDiv):
            return is_thousand(right, names)
        return isinstance(node.op, ast.Mult) and (is_thousandth(right) or is_thousandth(left))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DIVIDERS:
        return any(is_thousand(argument, names) for argument in node.args)
    return False


def divisions_by_thousand(source: SourceFile, names: frozenset[str] | None = None) -> Iterator[Violation]:
    """Divisions by 1000: a bin k stands for k/999. `names` are other modules' names for 1000."""
    known = names_of_thousand([source]) | (names or frozenset())
    for node in ast.walk(source.tree):
        if divides_by_thousand(node, known):
            yield Violation(source.path, getattr(node, "lineno", 1), "a division by 1000: bin k stands for k/999")


def config_lookups(source: SourceFile) -> Iterator[Violation]:
    """`.get("key")` or `getattr(…, "key", default)` on a config: a typo there is a silent default."""
    for node, name in calls(source.tree):
        receiver = ""
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            receiver = dotted_name(node.func.value)
        elif name == "getattr" and len(node.args) == 3:
            receiver = dotted_name(node.args[0])
        if CONFIG_NAME.match(receiver):
            yield Violation(source.path, node.lineno, f"a lookup with a default on {receiver}: read the typed field")


def unsafe_loaders(source: SourceFile) -> Iterator[Violation]:
    """Loaders that run code from what they load, and yaml.load or torch.load without a safe setting."""
    origins = imported_names(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Name) and resolved_name(node, origins) in UNSAFE_YAML:
            yield Violation(source.path, node.lineno, "an unsafe YAML loader: use a SafeLoader")
        if not isinstance(node, ast.Call):
            continue
        name = resolved_name(node.func, origins)
        if name in UNSAFE_CALLS or (name == "yaml.load" and not has_loader(node)):
            yield Violation(source.path, node.lineno, f"{name} can run what it reads: use a safe loader")
        if name == "torch.load" and not is_weights_only(node):
            yield Violation(source.path, node.lineno, "torch.load without weights_only=True can run what it reads")


def has_loader(call: ast.Call) -> bool:
    """Whether a yaml.load call names its loader."""
    return len(call.args) > 1 or any(keyword.arg == "Loader" for keyword in call.keywords)


def is_weights_only(call: ast.Call) -> bool:
    """Whether a call passes weights_only=True."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == "weights_only"]
    return any(isinstance(value, ast.Constant) and value.value is True for value in values)


def environment_names(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and name of every environment variable that a module reads or sets; "" for a name that cannot be told."""
    origins, constants = imported_names(source.tree), string_constants(source.tree)
    for node in ast.walk(source.tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and resolved_name(node.value, origins) == "os.environ":
            key = node.slice
        elif isinstance(node, ast.Call) and node.args:
            name = resolved_name(node.func, origins)
            if name == "os.getenv" or (
                name.startswith("os.environ.") and name.rpartition(".")[2] in ("get", "pop", "setdefault")
            ):
                key = node.args[0]
        elif isinstance(node, ast.Compare) and any(resolved_name(c, origins) == "os.environ" for c in node.comparators):
            key = node.left
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.lineno, key.value
        elif key is not None:
            yield getattr(key, "lineno", 1), constants.get(dotted_name(key), "")


def undocumented_environment(source: SourceFile, documented: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Environment variables that contracts/cli/environment.yaml does not list."""
    for line, name in environment_names(source):
        if name not in documented:
            shown = name or "a variable whose name is computed"
            yield Violation(
                source.path, line, f"{shown}: behaviour is set in YAML; list it in contracts/cli/environment.yaml"
            )


def flags(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and spelling of every argparse option that a module adds."""
    for node, name in calls(source.tree):
        if name.endswith(".add_argument"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).startswith("-"):
                    yield node.lineno, str(argument.value)


def undeclared_flags(source: SourceFile, declared: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Command-line options that contracts/cli/flags.yaml does not list for this entry point."""
    for line, flag in flags(source):
        if flag not in declared:
            yield Violation(
                source.path, line, f"{flag}: a new knob belongs in the YAML; list flags in contracts/cli/flags.yaml"
            )
