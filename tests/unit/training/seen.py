"""In place of a server or learner: writes what it was given to FOLDER/NAME.json; a server then answers on --port."""

from __future__ import annotations

import json
import os
import sys
from http.server import HTTPServer
from pathlib import Path

from tests.unit.training.stand_in import Health


def main(folder: Path, name: str, argv: list[str]) -> int:
    """Note, then behave."""
    told = os.environ.get("COORDEXP_SERVER_LAUNCH")
    document = {"argv": argv, "key": os.environ["COORDEXP_ROLLOUT_API_KEY"], "told": told}
    (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    if name == "server":
        sys.stdout.write("serving\n")
        if os.environ.get("SEEN_SERVER_FAILS"):
            return 7
        HTTPServer(("127.0.0.1", int(argv[argv.index("--port") + 1])), Health).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
