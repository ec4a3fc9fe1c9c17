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

LIGHT = ("spec", "config", "geometry", "coords", "data", "coordjson")
HEAVY = ("torch", "torchvision", "transformers", "swift", "vllm", "accelerate", "peft")
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
        if name.split(".")[0] in HEAVY:
            yield Violation(source.path, line, f"{package} is a light package and may not import {name}: move it up")


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
        elif not is_main_guard(node):
            queue.extend(ast.iter_child_nodes(node))


def is_main_guard(node: ast.AST) -> bool:
    """Whether a node is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
