"""Let torchvision import where its compiled library cannot load: a meta-path finder. BRIDGE-001 to BRIDGE-005.

The registry's torchvision wheel is a CUDA build. Beside a CPU torch its `_C` library does not load and importing it
ends in "operator torchvision::nms does not exist", although Qwen3-VL's image processors use its Python transforms only.
Declaring the schemas of the two operators that torchvision decorates unconditionally is enough; they stay
unimplemented.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PROVEN_VERSIONS = ("0.28.",)
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# torch drops a library's registrations when its handle is collected.
_HANDLES: list[object] = []


def is_proven(version: str) -> bool:
    """Whether this torchvision release is one whose operators are known to be those of `SCHEMAS`."""
    return version.startswith(PROVEN_VERSIONS)


def compiled_library_loads(package_folder: Path) -> bool:
    """Load torchvision's `_C` as torchvision does and say whether it worked; False when there is no such file."""
    import torch

    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = package_folder / f"_C{suffix}"
        if library.is_file():
            try:
                torch.ops.load_library(library)
            except OSError:
                return False
            return True
    return False


def declare_missing_operators(package_folder: Path, version: str) -> tuple[str, ...]:
    """Declare the operators torchvision decorates at import; return the names declared by this call.

    Nothing is declared where the compiled library loads, where the release is not a proven one, or a second time.
    """
    import torch

    if compiled_library_loads(package_folder) or not is_proven(version):
        return ()
    missing = tuple(name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name))
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(SCHEMAS[name])
        _HANDLES.append(library)
    return missing


class OperatorsFirstLoader(importlib.machinery.SourceFileLoader):
    """Runs torchvision's `__init__` after its operators are declared."""

    def exec_module(self, module: ModuleType) -> None:
        """Declare, then execute; ImportError for an unproven release that fails over its operators."""
        from importlib import metadata

        version = metadata.version("torchvision")
        declare_missing_operators(Path(self.path).parent, version)
        try:
            super().exec_module(module)
        except RuntimeError as error:
            if is_proven(version) or "torchvision::" not in str(error):
                raise
            raise ImportError(
                f"torchvision {version} cannot load its compiled library beside this torch, and the operator bridge is "
                f"proven for {', '.join(PROVEN_VERSIONS)}x only; install the version of requirements/cpu.txt, "
                f"or a torchvision built for this torch"
            ) from error


class TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Answers for the name `torchvision` only. Looking the package up imports nothing; importing it declares first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The ordinary spec of torchvision with the loader that declares its operators; None for every other name."""
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return spec
        spec.loader = OperatorsFirstLoader(fullname, spec.origin)
        return spec


FINDER = TorchvisionFinder()


def install_finder() -> None:
    """Put `FINDER` first in this process, once. Imports neither torch nor torchvision."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
