"""Start-up module of mutation runs: replaces one module's source as it is imported, in every Python process of the run.

In, the variable AUDIT_MUTANT (a JSON file: module, path, source, loads); out, "loaded" or "failed: ..." in `loads`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

VARIABLE = "AUDIT_MUTANT"
_HERE = str(Path(__file__).resolve().parent)


class MutatedLoader(importlib.machinery.SourceFileLoader):
    """Loads the mutated text under the file's own name; no byte code is read or written."""

    def __init__(self, fullname: str, path: str, mutant: dict[str, str]) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """Code of the mutated text."""
        return compile(self._mutant["source"], self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Execute, and note whether the mutant could be imported at all."""
        try:
            super().exec_module(module)
        except BaseException as error:
            self._note(f"failed: {type(error).__name__}: {error}")
            raise
        self._note("loaded")

    def _note(self, text: str) -> None:
        with open(self._mutant["loads"], "a", encoding="utf-8") as stream:
            stream.write(text.replace("\n", " ") + "\n")


class MutantFinder(importlib.abc.MetaPathFinder):
    """Answers for the mutated module only, and only where it is found at the mutated file."""

    def __init__(self, mutant: dict[str, str]) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Spec with the mutating loader, or None."""
        if fullname != self._mutant["module"]:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != Path(self._mutant["path"]):
            return None
        spec.loader = MutatedLoader(fullname, spec.origin, self._mutant)
        return spec


def install(mutant_file: str) -> None:
    """Put the finder of the mutant that `mutant_file` describes in front of all others."""
    sys.meta_path.insert(0, MutantFinder(json.loads(Path(mutant_file).read_text(encoding="utf-8"))))


def run_next_sitecustomize() -> None:
    """Run the `sitecustomize` that this one stands in front of, if there is one."""
    elsewhere = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if __name__ == "sitecustomize":
    if VARIABLE in os.environ:
        install(os.environ[VARIABLE])
    run_next_sitecustomize()
