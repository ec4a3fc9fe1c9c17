"""CoordJSON is light: neither the grammar nor the package brings in anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coordexp.spec import read_grammar

HEAVY = ("torch", "transformers", "tokenizers", "swift", "vllm", "numpy", "lark")


@pytest.mark.invariant("TEXT-010")
def test_importing_coordjson_brings_in_no_heavy_package() -> None:
    program = f"import sys, coordexp.coordjson; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.invariant("TEXT-010")
def test_grammar_reads_without_regex_features_beyond_lark() -> None:
    """Constrained decoders read the same file: no look-around, no back-references, no imports."""
    rules = "\n".join(line for line in read_grammar("coordjson").splitlines() if not line.startswith("//"))
    assert "start:" in rules
    for feature in ("(?=", "(?!", "(?<", "\\1", "%import", "*+", "++"):
        assert feature not in rules
