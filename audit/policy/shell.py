"""Shell scripts stay thin: they parse, stop at errors, hold no logic. A script in, violations out. POLICY-016."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from audit.policy.source import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CODE_LINES = 30
STRICT = "set -euo pipefail"
LOGIC = re.compile(r"^\s*(case|while|until|function)\b|^\s*\w+\s*\(\)|\b(awk|sed|jq|python[\w.]* -c)\b")


def scripts(root: Path) -> list[Path]:
    """The shell scripts of a checkout: scripts/*.sh and .ci/run."""
    return sorted([*(root / "scripts").glob("*.sh"), *(root / ".ci").glob("run")])


def shell_violations(root: Path, script: Path) -> Iterator[Violation]:
    """What is wrong with one script."""
    shown, text = script.relative_to(root).as_posix(), script.read_text(encoding="utf-8")
    parsed = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    if parsed.returncode != 0:
        yield Violation(shown, 1, f"bash cannot parse it: {parsed.stderr.strip()}")
    numbered = enumerate(text.splitlines(), start=1)
    code = [(n, line) for n, line in numbered if line.strip() and not line.strip().startswith("#")]
    if STRICT not in (line for _, line in code):
        yield Violation(shown, 1, f"it lacks {STRICT}")
    if len(code) > CODE_LINES:
        yield Violation(shown, 1, f"{len(code)} lines of code, {CODE_LINES} are allowed: move them into Python")
    yield from (Violation(shown, n, "logic in shell: move it into Python") for n, line in code if LOGIC.search(line))
