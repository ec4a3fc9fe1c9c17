"""Where the contract files are: in, nothing (or a path inside the contracts); out, an absolute path inside their root.

The environment variable COORDEXP_CONTRACTS_ROOT replaces the root (the mutation runs point it at a changed copy).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from coordexp.spec.types import ContractFileError

ROOT_VARIABLE = "COORDEXP_CONTRACTS_ROOT"
_PACKAGE = Path(__file__).resolve().parent.parent


def contracts_root() -> Path:
    """Folder of the contracts: the named one, the checkout's `contracts/`, or the installed `coordexp/contracts`.

    Raises `ContractFileError` when none of them holds the meta-schemas.
    """
    named = os.environ.get(ROOT_VARIABLE)
    return _find_root(os.path.abspath(named) if named else None)


@lru_cache(maxsize=8)
def _find_root(named: str | None) -> Path:
    # Once a root: every check asks, and a file of answers is checked line by line.
    candidates = [Path(named)] if named else [_PACKAGE.parent / "contracts", _PACKAGE / "contracts"]
    for candidate in candidates:
        if (candidate / "meta").is_dir():
            return candidate.resolve()
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise ContractFileError(
        f"no contract files: looked for meta/ in {looked}; reinstall coordexp or set {ROOT_VARIABLE}"
    )


def contract_path(*parts: str | Path) -> Path:
    """Absolute path of a contract file given relative to the root; leaving the root is a `ContractFileError`."""
    root = contracts_root()
    relative = Path(*parts)
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise ContractFileError(f"{relative}: leaves the contracts folder {root}")
    if not path.is_file():
        raise ContractFileError(f"{relative}: no such contract file in {root}")
    return path
