"""What a learner is told of the server that was started for it, and writes into its run manifest. TRAIN-046.

The launcher renders one line of JSON into an environment variable; the learner reads it. The server's key is not in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SERVER_LAUNCH_VARIABLE = "COORDEXP_SERVER_LAUNCH"


def render_server_launch(command: Sequence[str], devices: Sequence[int], log: Path) -> str:
    """The line, checked: the command as it was started, its GPU indices, and where its output is."""
    document = {"command": list(command), "devices": list(devices), "log": str(log)}
    return json.dumps(check("server-launch", document), separators=(",", ":"))


def read_server_launch(environment: Mapping[str, str]) -> dict[str, Any]:
    """`{"server": …}` for the manifest's `launch`; empty in a run that no launcher started a server for."""
    if SERVER_LAUNCH_VARIABLE not in environment:
        return {}
    return {"server": check("server-launch", json.loads(environment[SERVER_LAUNCH_VARIABLE]))}
