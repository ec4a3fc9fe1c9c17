"""`python -m benchmarks [NAME …]`: run every `bench_*.py`, or the named ones, and print their ratios.

A bench module has `run() -> dict`: it prints what it measured and returns it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from pathlib import Path

from rich.console import Console

import benchmarks

PREFIX = "bench_"


def bench_names() -> list[str]:
    """Names of the bench modules, without their prefix."""
    modules = pkgutil.iter_modules(benchmarks.__path__)
    return sorted(module.name.removeprefix(PREFIX) for module in modules if module.name.startswith(PREFIX))


def main() -> int:
    """Run the chosen benches in turn; with --json, write what they returned."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside a reference in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(bench_names())} (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the returned numbers here")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(bench_names())):
        parser.error(f"no bench called {', '.join(unknown)}; there are {', '.join(bench_names())}")
    console, results = Console(), {}
    for name in options.names or bench_names():
        console.rule(name)
        results[name] = importlib.import_module(f"benchmarks.{PREFIX}{name}").run()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
