"""ms-swift's rollout app without an engine: calls in, what it answers and what its worker is told out, as JSON.

A process of its own (`ask_app`), so that hooks which change ms-swift for a whole process stay there. The app, its
routes, guards and request models are upstream's; what stands in the worker's place notes commands and answers them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY = "the-key-of-this-app"


def ask_app(plugin: bool, calls: Sequence[Mapping[str, Any]], outputs: Sequence[Any] = ()) -> dict[str, Any]:
    """Routes (`[path, method]`), and for each call its `status`, `body` and the `commands` that the worker was given.

    A call has method, path, and maybe body, key (a text; none without it) and fails (the worker answers nothing).
    """
    told = {"plugin": plugin, "calls": list(calls), "outputs": list(outputs)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COORDEXP_ROLLOUT_API_KEY": KEY, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.rollout_app"],
        input=json.dumps(told), capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.rpartition("\n@@")[2]))


class Worker:
    """In the place of the pipe to a worker."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        self.outputs, self.fails = outputs, False
        self.commands: list[dict[str, Any]] = []

    def send(self, command: dict[str, Any]) -> None:
        self.commands.append(command)

    def recv(self) -> Any:
        from swift.infer_engine.protocol import RolloutOutput

        from tests.plugins.rogue_answers import recorded

        method = self.commands[-1]["method"]
        if self.fails:
            return None
        if method == "coordexp_describe":
            return recorded("liveness")["workers"][0]
        if method == "infer":
            return [RolloutOutput.model_validate(output) for output in self.outputs]
        return True


def plain(value: Any) -> Any:
    """Request objects of upstream as JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.model_dump() if hasattr(value, "model_dump") else repr(value)


def main() -> None:
    told = json.load(sys.stdin)
    from fastapi.testclient import TestClient

    import coordexp  # noqa: F401

    if told["plugin"]:
        from coordexp.rollout.server_plugin.install import install_plugin

        install_plugin()
        install_plugin()
    from coordexp.bridges.swift_rollout_cpu import CpuRolloutDeploy

    class WithoutWorkers(CpuRolloutDeploy):  # type: ignore[misc]
        def _start_data_parallel_workers(self) -> None:
            self.connections = [Worker(told["outputs"])]

    model = str(ROOT / "fixtures/tiny-qwen3vl")
    flags = ["--model", model, "--model_type", "qwen3_vl", "--template", "qwen3_vl", "--torch_dtype", "float32"]
    app = WithoutWorkers([*flags, *([] if told["plugin"] else ["--api_key", KEY])])
    client = TestClient(app.app, raise_server_exceptions=False)
    answered = []
    for call in told["calls"]:
        worker = app.connections[0]
        worker.commands, worker.fails = [], call.get("fails", False)
        headers = {"Authorization": f"Bearer {call['key']}"} if "key" in call else {}
        reply = client.request(call["method"], call["path"], json=call.get("body"), headers=headers)
        is_json = reply.headers.get("content-type", "").startswith("application/json")
        body = reply.json() if is_json else None
        answered.append({"status": reply.status_code, "body": body, "text": reply.text, "commands": worker.commands})
    routes = [
        [route.path, method] for route in app.app.routes for method in sorted(getattr(route, "methods", None) or ())
    ]
    sys.stdout.write("\n@@" + json.dumps({"routes": routes, "answers": answered}, default=plain))


if __name__ == "__main__":
    main()
