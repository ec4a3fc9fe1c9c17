"""Which environment variables a module reads, by whatever name it has the environment. POLICY-013."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.policy.source import (
    Violation,
    bound_values,
    calls,
    dotted_name,
    known_names,
    resolved_name,
    string_constants,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

ENVIRONMENTS = {"os.environ", "os.environb", "posix.environ", "nt.environ"}
ENVIRONMENT_WORDS = {"environ", "environment", "env"}
"""What a module calls an environment that it is given; a lookup there is a lookup of a variable."""
LOOKUPS = {"get", "pop", "setdefault", "__getitem__", "__contains__", "__setitem__"}
FUNCTIONS = {"os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
# What other packages read variables with: swift's get_env_args, dotenv's dotenv_values, accelerate's *_from_env.
READERS = re.compile(r"get_env\w*|\w*_(from|in)_env|\w*getenvb?|\w*dotenv\w*|env_(bool|int|str|float|flag|list|var)")
COPIERS = {"dict", "copy", "deepcopy", "MappingProxyType", "ChainMap", "OrderedDict"}
VIEWS = {"copy", "keys", "items", "values"}
EXPANDERS = {"os.path.expandvars", "string.Template", "os.path.expanduser", "pathlib.Path.expanduser"}
COPY_HOPS = 3
# path -> why it hands the whole environment on. What is read from it there is listed by its own name.
ENVIRONMENT_HANDED_ON: dict[str, str] = {
    "coordexp/bridges/__init__.py": "to child processes, with the start-up hook added",
    "coordexp/bridges/process_state.py": "to nobody: put back as it was after an engine is built",
    "coordexp/artifacts/given_answers.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/data/run_inputs.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/evaluation/job.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/entrypoints/check_data.py": "to image_root, which reads ROOT_IMAGE_DIR",
    "coordexp/entrypoints/launch.py": "to build_launch, which reads config and gpus, and to the training processes",
    "coordexp/rollout/serve.py": "to the server that it becomes on a GPU",
    "coordexp/entrypoints/quickstart.py": "to build_stage2_launch, which reads its variables, and to processes",
    "coordexp/rollout/server_plugin/install.py": "to read_activation, which reads the two of repeat_terminate",
    "coordexp/rollout/server_plugin/processors.py": "to read_activation, in a process of the engine",
    "coordexp/entrypoints/launch_stage2.py": "to build_stage2_launch, which reads its variables, and to processes",
    "coordexp/training/manifest.py": "to read_server_launch and read_environment, which read what the contract lists",
    "audit/execution.py": "to child processes",
    "audit/suite.py": "to child processes",
    "audit/tree.py": "to child processes",
    "audit/warm.py": "to child processes, and to itself from its parent",
    "audit/core/campaign.py": "to child processes",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What the names of a module stand for: their origins, and every expression that each is bound to."""

    origins: dict[str, str]
    bound: dict[str, list[ast.expr]]


def scope_of(source: SourceFile) -> Scope:
    """The names of a module."""
    return Scope(known_names(source), bound_values(source.tree))


def is_environment(node: ast.AST | None, scope: Scope, hops: int = COPY_HOPS) -> bool:
    """Whether an expression is the environment, one that the module is given, or a copy or a view of either."""
    if node is None or hops < 0:
        return False
    if resolved_name(node, scope.origins) in ENVIRONMENTS:
        return True
    if isinstance(node, ast.Name):
        return node.id in ENVIRONMENT_WORDS or any(
            is_environment(v, scope, hops - 1) for v in scope.bound.get(node.id, [])
        )
    if isinstance(node, ast.Attribute):
        return node.attr in ENVIRONMENT_WORDS
    return any(is_environment(part, scope, hops) for part in copied(node))


def copied(node: ast.AST) -> list[ast.expr]:
    """The expressions whose content an expression gives on: `x` of `dict(x)`, `{**x}`, `x.copy()`, `x | y`."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in VIEWS and not node.args:
            return [node.func.value]
        if dotted_name(node.func).rpartition(".")[2] in COPIERS:
            return [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg is None)]
    elif isinstance(node, ast.Dict):
        return [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
    elif isinstance(node, ast.BinOp):
        return [node.left, node.right]
    elif isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    elif isinstance(node, ast.BoolOp):
        return node.values
    return [node.value] if isinstance(node, ast.NamedExpr) else []


def environment_names(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and name of every environment variable that a module reads or sets; "" for a name that cannot be told."""
    scope, constants = scope_of(source), string_constants(source.tree)
    for node in ast.walk(source.tree):
        key = environment_key(node, scope)
        if isinstance(key, ast.Constant):
            text = key.value.decode() if isinstance(key.value, bytes) else key.value
            yield key.lineno, str(text)
        elif key is not None:
            yield getattr(key, "lineno", 1), constants.get(dotted_name(key), "")


def environment_key(node: ast.AST, scope: Scope) -> ast.expr | None:
    """The expression that names a variable, where a node reads or sets one."""
    if isinstance(node, ast.Subscript) and is_environment(node.value, scope):
        return node.slice
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        return node.left if any(is_environment(part, scope) for part in node.comparators) else None
    return key_of_call(node, scope) if isinstance(node, ast.Call) else None


def key_of_call(node: ast.Call, scope: Scope) -> ast.expr | None:
    """The variable that a call looks up; the function itself where a reader names none."""
    owner, _, last = resolved_name(node.func, scope.origins).rpartition(".")
    named = [keyword.value for keyword in node.keywords if keyword.arg == "key"]
    given = node.args[0] if node.args else named[0] if named else None
    if f"{owner}.{last}" in FUNCTIONS or (owner in ENVIRONMENTS and last in LOOKUPS):
        return given
    if isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS and is_environment(node.func.value, scope):
        return given
    if last in ("getitem", "contains") and len(node.args) > 1 and is_environment(node.args[0], scope):
        return node.args[1]
    return (given or node.func) if READERS.fullmatch(last) else None


def whole_environments(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and spelling of every use of the environment that names no variable: copies, updates, expansion."""
    scope = scope_of(source)
    told: set[int] = set()
    for node in ast.walk(source.tree):
        if environment_key(node, scope) is not None:
            told |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and id(node) not in told:
            name = resolved_name(node, scope.origins)
            if name in ENVIRONMENTS | EXPANDERS or (isinstance(node, ast.Attribute) and node.attr == "expanduser"):
                yield node.lineno, name or "expanduser"


def unnamed_reads(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and spelling of what reads the environment and names no variable: loops, matches, lookups handed on."""
    scope = scope_of(source)
    called = {id(node.func) for node, _ in calls(source.tree)}
    for node in ast.walk(source.tree):
        read: ast.expr | None = None
        if isinstance(node, ast.For | ast.comprehension):
            read = node.iter
        elif isinstance(node, ast.Match):
            read = node.subject
        elif isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr):
            read = node.left if is_environment(node.left, scope) else node.right
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Call):
            read = next((part for part in node.args if is_environment(part, scope)), None)
        elif isinstance(node, ast.Attribute) and node.attr in LOOKUPS and id(node) not in called:
            read = node.value
        elif isinstance(node, ast.ImportFrom) and node.module == "os" and node.names[0].name == "*":
            yield node.lineno, "from os import *"
        if is_environment(read, scope):
            yield getattr(read, "lineno", 1), "the environment, read without a name,"


def undocumented_environment(source: SourceFile, documented: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Environment variables that contracts/cli/environment.yaml does not list, and the environment as a whole."""
    found: dict[int, str] = {}
    for line, name in environment_names(source):
        if name not in documented:
            shown = name or "a variable whose name is computed"
            found[line] = f"{shown}: behaviour is set in YAML; list it in contracts/cli/environment.yaml"
    whole = dict(unnamed_reads(source))
    if source.path not in ENVIRONMENT_HANDED_ON:
        whole |= dict(whole_environments(source))
    for line, name in whole.items():
        advice = "read one listed variable, or only hand it on, in a module of ENVIRONMENT_HANDED_ON"
        found.setdefault(line, f"{name} as a whole: {advice}")
    for line, message in found.items():
        yield Violation(source.path, line, message)
