"""A small program in the place of a server or a learner: `python stand_in.py '{"name": …}'`, see `Behaviour`."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict


class Behaviour(TypedDict, total=False):
    """`folder`/`name`.pid is written once it stands; `port` answers after `after` seconds; it ends by itself after
    `seconds` with `code`, or by the signal -`code`.
    """

    folder: str
    name: str
    port: int
    after: float
    seconds: float
    code: int
    stubborn: bool
    children: int
    says: str


class Health(http.server.BaseHTTPRequestHandler):
    """Answers every GET with 200."""

    def do_GET(self) -> None:
        """Stands for GET /health/."""
        self.send_response(200)
        self.end_headers()


def main(wanted: Behaviour) -> int:
    """Behave."""
    if wanted.get("stubborn"):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    begun = time.monotonic()
    for number in range(wanted.get("children", 0)):
        child = {
            "folder": wanted["folder"],
            "name": f"{wanted['name']}-child{number}",
            "stubborn": wanted.get("stubborn", False),
        }
        subprocess.Popen([sys.executable, __file__, json.dumps(child)])
    if "says" in wanted:
        sys.stdout.write(wanted["says"] + "\n")
        sys.stdout.flush()
    (Path(wanted["folder"]) / f"{wanted['name']}.pid").write_text(str(os.getpid()))
    server = None
    while time.monotonic() - begun < wanted.get("seconds", 60.0):
        if server is None and "port" in wanted and time.monotonic() - begun >= wanted.get("after", 0.0):
            server = http.server.HTTPServer(("127.0.0.1", wanted["port"]), Health)
            server.timeout = 0.05
        if server is None:
            time.sleep(0.02)
        else:
            server.handle_request()
    code = wanted.get("code", 0)
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
