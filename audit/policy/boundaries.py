"""What may happen in one place only: output, config lookups, the environment, flags. POLICY-009, 010, 013, 014."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from audit.policy.source import (
    Violation,
    bindings,
    dotted_name,
    known_names,
    resolved_name,
    string_constants,
    text_of,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

PRINTERS = {
    "print", "builtins.print", "pprint.pprint", "pprint.pp", "pprint.PrettyPrinter", "rich.print", "rich.print_json",
    "rich.inspect", "traceback.print_exc", "traceback.print_exception", "traceback.print_stack", "os.write", "input",
    "builtins.input", "breakpoint", "builtins.breakpoint", "warnings.showwarning", "logging.basicConfig",
}  # fmt: skip
STREAMS = {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "sys.stdin"}
COMMANDS = ("coordexp/entrypoints/", "audit/")
"""Where a command speaks to whoever typed it, on the standard streams."""
CONFIG_PART = re.compile(r"_?(config|cfg|conf|(resolved|raw|run|train|training)_config|\w+_cfg)")
LOOKUPS = {"get", "setdefault", "pop"}
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b")
ENVIRONMENTS = {"os.environ", "os.environb"}
ENVIRONMENT_LOOKUPS = {"get", "pop", "setdefault", "__getitem__", "__contains__", "__setitem__"}
ENVIRONMENT_FUNCTIONS = {"os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
EXPANDERS = {"os.path.expandvars", "string.Template", "os.path.expanduser", "pathlib.Path.expanduser"}
# path -> why it hands the whole environment on. What is read from it there is listed by its own name.
ENVIRONMENT_HANDED_ON: dict[str, str] = {
    "coordexp/bridges/__init__.py": "to child processes, with the start-up hook added",
    "coordexp/data/run_inputs.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/evaluation/job.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/entrypoints/check_data.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/entrypoints/launch.py": "to build_launch, which reads config and gpus, and to the training processes",
    "audit/execution.py": "to child processes",
    "audit/suite.py": "to child processes",
    "audit/tree.py": "to child processes",
    "audit/warm.py": "to child processes, and to itself from its parent",
    "audit/core/campaign.py": "to child processes",
}
FLAG_PACKAGES = {
    "click", "typer", "fire", "getopt", "optparse", "docopt", "absl", "simple_parsing", "jsonargparse", "tyro", "hydra",
    "configargparse", "HfArgumentParser",
}  # fmt: skip
# path -> why it looks at the command line itself.
COMMAND_LINES: dict[str, str] = {
    "coordexp/artifacts/run_manifest.py": "records the command of a run",
    "coordexp/entrypoints/launch.py": "takes no argument, and says so",
}


def prints(source: SourceFile) -> Iterator[Violation]:
    """Output that library code makes: `print` under any name, and the standard streams outside commands."""
    origins = known_names(source)
    found: dict[int, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and not is_target(node):
            name = resolved_name(node, origins)
            if name in PRINTERS or (name in STREAMS and not source.path.startswith(COMMANDS)):
                found.setdefault(node.lineno, name)
    for line, name in found.items():
        yield Violation(source.path, line, f"{name}: entry points use rich's console, libraries log")


def is_target(node: ast.AST) -> bool:
    """Whether an expression is being bound, not read."""
    return isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)


def unfinished_marks(source: SourceFile) -> Iterator[Violation]:
    """Comments or strings that say something is left to do."""
    for number, line in enumerate(source.text.splitlines(), start=1):
        if UNFINISHED.search(line):
            yield Violation(source.path, number, "unfinished work: finish it, or file an issue and drop the mark")


def config_lookups(source: SourceFile) -> Iterator[Violation]:
    """`.get("key")` or `getattr(…, "key", default)` on a config: a typo there is a silent default."""
    aliases = {target for target, value in bindings(source.tree) if is_config(dotted_name(value))}
    for node in ast.walk(source.tree):
        receiver = looked_up(node) if isinstance(node, ast.Call) else None
        chain = dotted_name(receiver) if receiver is not None else ""
        if is_config(chain) or chain.split(".")[0] in aliases:
            yield Violation(source.path, getattr(node, "lineno", 1), f"a lookup on {chain}: read the typed field")


def looked_up(node: ast.Call) -> ast.expr | None:
    """What a call looks a key up in, leniently: `x` of `x.get(k)`, `asdict(x).get(k)`, `getattr(x, k, d)`."""
    receiver: ast.expr | None = None
    if isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS and node.args:
        receiver = node.func.value
    elif dotted_name(node.func) == "getattr" and len(node.args) == 3:
        receiver = node.args[0]
    if isinstance(receiver, ast.Call) and receiver.args:
        return receiver.args[0]
    return receiver


def is_config(chain: str) -> bool:
    """Whether a dotted name is a configuration or a part of one."""
    return any(CONFIG_PART.fullmatch(part) for part in chain.split("."))


def environment_names(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and name of every environment variable that a module reads or sets; "" for a name that cannot be told."""
    origins, constants = known_names(source), string_constants(source.tree)
    for node in ast.walk(source.tree):
        key = environment_key(node, origins)
        if isinstance(key, ast.Constant):
            text = key.value.decode() if isinstance(key.value, bytes) else key.value
            yield key.lineno, str(text)
        elif key is not None:
            yield getattr(key, "lineno", 1), constants.get(dotted_name(key), "")


def environment_key(node: ast.AST, origins: dict[str, str]) -> ast.expr | None:
    """The expression that names a variable, where a node reads or sets one."""
    if isinstance(node, ast.Subscript) and resolved_name(node.value, origins) in ENVIRONMENTS:
        return node.slice
    if isinstance(node, ast.Compare) and any(resolved_name(c, origins) in ENVIRONMENTS for c in node.comparators):
        return node.left
    if isinstance(node, ast.Call):
        owner, _, last = resolved_name(node.func, origins).rpartition(".")
        if f"{owner}.{last}" in ENVIRONMENT_FUNCTIONS or (owner in ENVIRONMENTS and last in ENVIRONMENT_LOOKUPS):
            named = [keyword.value for keyword in node.keywords if keyword.arg == "key"]
            return node.args[0] if node.args else named[0] if named else None
    return None


def whole_environments(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and spelling of every use of the environment that names no variable: copies, loops, updates, expansion."""
    origins = known_names(source)
    told: set[int] = set()
    for node in ast.walk(source.tree):
        if environment_key(node, origins) is not None:
            told |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and id(node) not in told:
            name = resolved_name(node, origins)
            if name in ENVIRONMENTS | EXPANDERS or (isinstance(node, ast.Attribute) and node.attr == "expanduser"):
                yield node.lineno, name or "expanduser"


def undocumented_environment(source: SourceFile, documented: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Environment variables that contracts/cli/environment.yaml does not list, and the environment as a whole."""
    for line, name in environment_names(source):
        if name not in documented:
            shown = name or "a variable whose name is computed"
            yield Violation(
                source.path, line, f"{shown}: behaviour is set in YAML; list it in contracts/cli/environment.yaml"
            )
    if source.path not in ENVIRONMENT_HANDED_ON:
        for line, name in dict(whole_environments(source)).items():
            message = f"{name} as a whole: read one listed variable, or list the module in ENVIRONMENT_HANDED_ON"
            yield Violation(source.path, line, message)


def flags(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and spelling of every option that a module adds; "" for one whose spelling is computed."""
    origins = known_names(source)
    direct: set[int] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            direct.add(id(node.func))
            for argument in node.args:
                text = text_of(argument)
                if not text or text.startswith("-"):
                    yield node.lineno, text
        elif isinstance(node, ast.Attribute) and is_other_way(node, source, direct, origins):
            yield node.lineno, ""


def is_other_way(node: ast.Attribute, source: SourceFile, direct: set[int], origins: dict[str, str]) -> bool:
    """Whether options come in by another way than a call of add_argument with their spelling."""
    if node.attr in ("add_argument", "add_option", "parse_known_args"):
        return id(node) not in direct
    return resolved_name(node, origins) == "sys.argv" and source.path not in COMMAND_LINES


def undeclared_flags(source: SourceFile, declared: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Command-line options that contracts/cli/flags.yaml does not list for this entry point."""
    advice = "a new knob belongs in the YAML; list flags in contracts/cli/flags.yaml"
    for line, flag in flags(source):
        if flag not in declared:
            yield Violation(source.path, line, f"{flag or 'an option that can not be told'}: {advice}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            words = {part for alias in node.names for part in f"{module}.{alias.name}".split(".")}
            if words & FLAG_PACKAGES:
                shown = ", ".join(sorted(words & FLAG_PACKAGES))
                yield Violation(source.path, node.lineno, f"{shown}: options are argparse's; {advice}")
