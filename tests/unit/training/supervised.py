"""`supervise` in a process of its own: server and learner come from argv, as JSON; says when it is ready."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from coordexp.training.supervise import Callbacks, LearnerStart, ServerStart, SupervisionError, supervise

STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def main(folder: Path, server: dict[str, object], learner: dict[str, object], grace_s: float, timeout_s: float) -> int:
    """Supervise two stand-ins; 1 with the error on stderr."""

    def command(name: str, behaviour: dict[str, object]) -> tuple[str, ...]:
        return (sys.executable, STAND_IN, json.dumps({"folder": str(folder), "name": name, **behaviour}))

    def ready(seconds_left: float) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        if server.get("refused"):
            raise SupervisionError("another dtype")

    url = f"http://127.0.0.1:{server['port']}/health/"
    start = ServerStart(command("server", server), os.environ, folder / "server.log", url, timeout_s)
    callbacks = Callbacks(lambda seconds: None, ready, sys.stderr.write)
    try:
        return supervise(start, LearnerStart(command("learner", learner), os.environ), callbacks, grace_s)
    except SupervisionError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), **json.loads(sys.argv[2])))
