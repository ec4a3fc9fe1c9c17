"""YAML that documents show, held against the loader of configurations. POLICY-015.

The text of a document in, line and complaint for what no configuration takes out: keys, values, and keys that do not
go together. An example is laid on a smoke configuration, so that the cross checks see the keys it leaves out.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from audit.policy.mentions import complaints_about_value
from coordexp.config.loading import load_config
from coordexp.config.problems import ConfigError, Problem, render_path
from coordexp.config.rules import build_rule
from coordexp.config.validate import find_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

FENCE = re.compile(r"^(?:```|~~~)ya?ml\b[^\n]*\n(.*?)^(?:```|~~~)", re.DOTALL | re.MULTILINE)


def wrong_examples(root: Path, text: str) -> Iterator[tuple[int, str]]:
    """Line and complaint for each YAML example of a document that no configuration takes."""
    for match in FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 2
        try:
            content: Any = yaml.safe_load(match.group(1))
        except yaml.YAMLError as error:
            yield line, f"the example is no YAML: {str(error).partition(chr(10))[0]}"
            continue
        rows = match.group(1).splitlines()
        for key, complaint in _complaints(root, content if isinstance(content, dict) else {}):
            yield line + next((n for n, row in enumerate(rows) if key in row), 0), complaint


def _complaints(root: Path, content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The last key of a path that is wrong, and what is wrong with it."""
    sections = build_rule().properties or {}
    if not set(content) & set(sections):
        for key, value in content.items():
            for complaint in complaints_about_value(str(key), value):
                yield str(key), complaint
        return
    values = {key: value for key, value in content.items() if key != "extends"}
    faults = [fault for fault in find_faults(build_rule(), values) if not fault.missing]
    for fault in faults:
        yield str(fault.path[-1]), f"{render_path(fault.path)}: {fault.message}"
    if not faults:
        for problem in crossing_problems(root, values):
            yield str(problem.path[-1]), f"{render_path(problem.path)}: {problem.message}"


def crossing_problems(root: Path, values: dict[str, Any]) -> list[Problem]:
    """Problems at the keys that an example writes, on the smoke configuration that takes it best."""
    bases = sorted((root / "configs").glob("*/smoke/*.yaml"))
    return min((_problems_on(base, values) for base in bases), key=len, default=[])


def _problems_on(base: Path, values: dict[str, Any]) -> list[Problem]:
    with tempfile.TemporaryDirectory(prefix="example-") as folder:
        file = Path(folder) / "example.yaml"
        file.write_text(yaml.safe_dump({"extends": str(base), **values}), encoding="utf-8")
        try:
            load_config(file)
        except ConfigError as error:
            return [problem for problem in error.problems if problem.where.startswith(f"{file}:")]
    return []
