"""The one place that touches internals of transformers, ms-swift, vLLM and torchvision: patches named and idempotent.

`subprocess_env` hands on an environment in which a fresh Python process, vLLM's model inspection for one, has them too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

STARTUP_FOLDER = Path(__file__).resolve().parent / "startup"
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def subprocess_env(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Copy `environment` (this process's by default) with PYTHONPATH leading to the start-up folder and the package.

    Python imports `sitecustomize` from there before anything else, so the bridges also hold in processes that
    third-party code starts. Other entries of PYTHONPATH are kept, after these; calling it twice adds nothing.
    """
    result = dict(os.environ if environment is None else environment)
    ours = [str(STARTUP_FOLDER), str(PACKAGE_PARENT)]
    theirs = [entry for entry in result.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in ours]
    result["PYTHONPATH"] = os.pathsep.join(ours + theirs)
    return result
