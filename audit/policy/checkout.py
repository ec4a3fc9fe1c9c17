"""What documents may name, read once from a checkout: variables, tox environments, markers, options, words. POLICY-015.

The folder of a checkout in; a `Checkout` out.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from audit.policy.rules import declared_flags
from audit.policy.words import Vocabulary, read_vocabulary
from coordexp.spec import check, contract_path, read_yaml

if TYPE_CHECKING:
    from pathlib import Path

OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


@dataclass(frozen=True, slots=True)
class Checkout:
    """What documents may name. `variables` has the meaning of each environment variable."""

    root: Path
    variables: dict[str, str]
    environments: frozenset[str]
    markers: frozenset[str]
    flags: dict[str, frozenset[str]]
    vocabulary: Vocabulary


def read_checkout(root: Path) -> Checkout:
    """The names that exist, from the contracts, tox.ini and pyproject.toml of a checkout."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "tox.ini")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    markers = project["tool"]["pytest"]["ini_options"]["markers"]
    variables = check("environment", read_yaml(contract_path("cli/environment.yaml")))["variables"]
    return Checkout(
        root=root,
        variables={row["name"]: row["meaning"] for row in variables},
        environments=frozenset(name.removeprefix("testenv:") for name in parser.sections()),
        markers=frozenset(re.split(r"[(:]", marker)[0] for marker in markers),
        flags=declared_flags(),
        vocabulary=read_vocabulary(root),
    )


HELP = {"pytest": ("--help", "-p", "no:cacheprovider"), "tox": ("run", "--help")}
"""How a tool is asked for its options; pytest tells those of its plugins and of tests/conftest.py too."""


@lru_cache(maxsize=4)
def options_of(tool: str, root: Path) -> frozenset[str]:
    """Every option that a tool takes in a checkout, as its own help lists them."""
    command = [sys.executable, "-m", tool, *HELP[tool]]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return frozenset(OPTION.findall(answer.stdout))
