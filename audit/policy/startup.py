"""What a module does when it is imported: no network, nothing heavy in a light package. POLICY-021, POLICY-022."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from audit.policy.names import imports, package_of
from audit.policy.source import Violation, known_names, resolved_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

LIGHT = ("spec", "config", "geometry", "coords", "data", "coordjson", "matching")
# The one list of what is heavy; the contract of import-linter in pyproject.toml names the same.
HEAVY = (
    "torch", "torchvision", "transformers", "swift", "vllm", "deepspeed", "accelerate", "peft", "safetensors", "trl",
    "datasets", "modelscope", "tensorboard", "flash_attn", "liger_kernel", "bitsandbytes",
)  # fmt: skip
NETWORK = {
    "requests", "httpx", "aiohttp", "urllib", "urllib3", "http", "socket", "ftplib", "smtplib", "huggingface_hub",
    "modelscope", "boto3", "grpc", "websocket", "websockets", "paramiko", "subprocess",
}  # fmt: skip
DOWNLOADS = re.compile(r"from_pretrained|\w*_download|load_dataset|urlopen|urlretrieve|hub_load")


def heavy_imports(source: SourceFile) -> Iterator[Violation]:
    """Imports of the model stack in a light package, inside functions and by name too."""
    package = package_of(source.path.removesuffix(".py").replace("/", "."))
    if package not in LIGHT:
        return
    for line, name in imports(source):
        if not name or name.split(".")[0] in HEAVY:
            shown = name or "what cannot be told"
            yield Violation(source.path, line, f"{package} is a light package and may not import {shown}: move it up")


def network_at_import(source: SourceFile) -> Iterator[Violation]:
    """Calls at module level that reach for a network, or for a program that may."""
    origins = known_names(source)
    for node in run_at_import(source.tree):
        if isinstance(node, ast.Call):
            name = resolved_name(node.func, origins)
            last = node.func.attr if isinstance(node.func, ast.Attribute) else name.rpartition(".")[2]
            if name.split(".")[0] in NETWORK or DOWNLOADS.fullmatch(last):
                message = f"{name or last} is called when the module is imported: call it inside a function"
                yield Violation(source.path, node.lineno, message)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: class bodies, decorators and defaults, no function bodies."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            queue += [*node.decorator_list, node.args]
        elif isinstance(node, ast.Lambda):
            queue.append(node.args)
        else:
            guarded = guarded_at_import(node)
            queue.extend(ast.iter_child_nodes(node) if guarded is None else guarded)


def guarded_at_import(node: ast.AST) -> list[ast.stmt] | None:
    """What `if __name__ == "__main__":` or its opposite leaves to run at import; None for any other node."""
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare) or len(node.test.ops) != 1:
        return None
    if {ast.unparse(node.test.left), ast.unparse(node.test.comparators[0])} != {"__name__", "'__main__'"}:
        return None
    told: dict[type[ast.cmpop], list[ast.stmt]] = {ast.Eq: node.orelse, ast.NotEq: node.body}
    return told.get(type(node.test.ops[0]))
