"""What may happen in one place only: output, config lookups, flags. POLICY-009, POLICY-010, POLICY-014."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from audit.policy.source import (
    Violation,
    bindings,
    dotted_name,
    enclosing_functions,
    known_names,
    resolved_name,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

PRINTERS = {
    "print", "builtins.print", "pprint.pprint", "pprint.pp", "pprint.PrettyPrinter", "rich.print", "rich.print_json",
    "rich.inspect", "traceback.print_exc", "traceback.print_exception", "traceback.print_stack", "os.write", "input",
    "builtins.input", "breakpoint", "builtins.breakpoint", "warnings.showwarning", "logging.basicConfig",
}  # fmt: skip
# What packages of a terminal write with, whichever of their modules it is taken from.
ECHOES = {
    ("tqdm", "write"),
    ("click", "echo"),
    ("click", "secho"),
    ("typer", "echo"),
    ("typer", "secho"),
    ("rich", "get_console"),
}
# (path, function) -> what a library's own console is for; any other is handed one by the command.
CONSOLES: dict[tuple[str, str], str] = {
    ("coordexp/data/reports.py", "progress"): "a bar on stderr, silent where that is no terminal",
    ("coordexp/data/reports.py", "render_table"): "writes into a string",
    (
        "coordexp/training/console.py",
        "install_run_log",
    ): "the line of a run on stderr, refreshed where that is a terminal",
    ("coordexp/evaluation/summary.py", "show_progress"): "a bar on stderr, silent where that is no terminal",
}
STREAMS = {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "sys.stdin"}
COMMANDS = ("coordexp/entrypoints/", "audit/")
"""Where a command speaks to whoever typed it, on the standard streams."""
CONFIG_PART = re.compile(r"_?(config|cfg|conf|(resolved|raw|run|train|training)_config|\w+_cfg)")
LOOKUPS = {"get", "setdefault", "pop"}
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b")
PARSER_METHODS = {"add_argument", "add_option", "parse_known_args"}
COMMAND_LINE = {"sys.argv", "sys.orig_argv"}
COMMAND_LINE_FILE = re.compile(r"/proc/(self|thread-self|\d+)/cmdline")
FLAG_PACKAGES = {
    "click", "typer", "fire", "getopt", "optparse", "docopt", "absl", "simple_parsing", "jsonargparse", "tyro", "hydra",
    "configargparse", "HfArgumentParser",
}  # fmt: skip
# path -> why it looks at the command line itself.
COMMAND_LINES: dict[str, str] = {
    "coordexp/artifacts/run_manifest.py": "records the command of a run",
    "coordexp/entrypoints/launch.py": "takes no argument, and says so",
    "coordexp/entrypoints/launch_stage2.py": "takes no argument, and says so",
    "coordexp/rollout/serve.py": "hands on the flags of swift rollout, which contracts/cli/rollout_flags.yaml declares",
}


def prints(source: SourceFile) -> Iterator[Violation]:
    """Output that library code makes: `print` under any name, and the standard streams outside commands."""
    origins, owners = known_names(source), enclosing_functions(source.tree)
    found: dict[int, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and not is_target(node):
            name = resolved_name(node, origins)
            echoes = name in PRINTERS or (name.split(".")[0], name.rpartition(".")[2]) in ECHOES
            if echoes or (name in STREAMS and not source.path.startswith(COMMANDS)):
                found.setdefault(node.lineno, name)
            elif makes_console(node, origins) and not may_make_console(source.path, owners.get(node, "")):
                found.setdefault(node.lineno, "a console")
    for line, name in found.items():
        yield Violation(source.path, line, f"{name}: entry points use rich's console, libraries log")


def may_make_console(path: str, function: str) -> bool:
    """Whether a function may make a console of its own: a command's, or one of CONSOLES."""
    return path.startswith(COMMANDS) or (path, function) in CONSOLES


def makes_console(node: ast.AST, origins: dict[str, str]) -> bool:
    """Whether a node is a call of rich's Console."""
    name = resolved_name(node.func, origins) if isinstance(node, ast.Call) else ""
    return name.startswith("rich.") and name.endswith(".Console")


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
    """Whether a dotted name is a configuration or a part of one; pytest's stash, whose keys have types, is none."""
    return not chain.endswith("config.stash") and any(CONFIG_PART.fullmatch(part) for part in chain.split("."))


def bucket_reads(source: SourceFile) -> Iterator[Violation]:
    """Any `extra` that is read: `custom.extra` is kept and written out as part of the whole, and means nothing."""
    for node in ast.walk(source.tree):
        if shown := extra_read(node):
            message = f"{shown}: no code reads custom.extra; make the key a field of the configuration"
            yield Violation(source.path, getattr(node, "lineno", 1), message)


def extra_read(node: ast.AST) -> str:
    """How a node spells a read of `extra`, as an attribute or a key or by name; "" for any other node."""
    reads = False
    if isinstance(node, ast.Attribute):
        reads = node.attr == "extra" and not is_target(node)
    elif isinstance(node, ast.Subscript):
        reads = text_of(node.slice) == "extra" and not is_target(node)
    elif isinstance(node, ast.Call):
        last = dotted_name(node.func).rpartition(".")[2] or getattr(node.func, "attr", "")
        asks = last in LOOKUPS | {"getattr", "attrgetter", "itemgetter", "getitem", "__getitem__", "__getattribute__"}
        reads = asks and any(text_of(part).rpartition(".")[2] == "extra" for part in node.args)
    return ast.unparse(node) if reads else ""


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
        elif isinstance(node, ast.Attribute) and node.attr in PARSER_METHODS and id(node) not in direct:
            yield node.lineno, ""
    yield from ((line, "") for line in sorted(set(command_line_reads(source, origins))))


def command_line_reads(source: SourceFile, origins: dict[str, str]) -> Iterator[int]:
    """Lines that look at the command line itself; where COMMAND_LINES lists the module, that look for a word in it."""
    handed_on = source.path in COMMAND_LINES
    for node in ast.walk(source.tree):
        stars = isinstance(node, ast.ImportFrom) and node.module == "sys" and node.names[0].name == "*"
        reads = COMMAND_LINE_FILE.search(text_of(node)) or (not handed_on and is_command_line(node, origins))
        if stars or reads or is_search(node, origins):
            yield getattr(node, "lineno", 1)


def is_search(node: ast.AST, origins: dict[str, str]) -> bool:
    """Whether a comparison or a method looks for a word in the command line, or in what a main function is given."""
    parts: list[ast.AST] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        parts = [node.func.value]
    elif isinstance(node, ast.Compare):
        parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
    return any(is_command_line(part, origins) or dotted_name(part).rpartition(".")[2] == "argv" for part in parts)


def is_command_line(node: ast.AST, origins: dict[str, str]) -> bool:
    """Whether an expression is the list of a process's arguments."""
    named = isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) and not is_target(node)
    return named and ".".join(resolved_name(node, origins).split(".")[-2:]) in COMMAND_LINE


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
