"""Python imports this at start-up when its folder is on PYTHONPATH (see `coordexp.bridges.subprocess_env`).

It stands in front of any other `sitecustomize`, so it runs the next one on the path, once.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import coordexp_startup

HERE = Path(__file__).resolve().parent

if not coordexp_startup.next_sitecustomize_ran:
    coordexp_startup.next_sitecustomize_ran = True
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
