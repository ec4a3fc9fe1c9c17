"""Some requests to rollout servers and their answers as files for a person to read. Contract ids: ROLL-072, ROLL-073.

The documents are `coordexp:request-dump`, one line a request, in `<run>/requests/step_<step>.jsonl` and
`<run>/requests/eval_<step>.jsonl`. Images stand there by their hash, the servers' key nowhere. Rank 0 alone has one:
its share of a step is enough to read. How much is written, and what a bad disk does, is `artifacts.dump_files`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from threading import Lock
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.dump_files import Cadence, DumpBounds, DumpFiles
from coordexp.artifacts.stored_rollouts import EVAL, FILE_NAMES, TRAIN
from coordexp.rollout.seeding import evaluation_seed_base
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from coordexp.rollout.types import Decoding, Observed
    from coordexp.rollout.vllm_client import Exchange

FOLDER = "requests"
SECTION = "rollout_matching.vllm.server.debug_dump"
HIDDEN = "<api key>"


class RequestDump:
    """Writes the first `bounds.max_samples` requests of a training step that is due, and of every evaluation, each with
    its answer, before the client judges it: what it refuses is there to be read.

    Evaluations are known by their seeds. `secret` is hidden wherever a server repeats it. Usable from several threads.
    """

    def __init__(self, run: Path, bounds: DumpBounds, training_seed: int, secret: str | None) -> None:
        self.bounds = bounds
        self.files = DumpFiles(run / FOLDER, SECTION, bounds)
        self._cadence = Cadence(bounds)
        self._evaluation_seed = evaluation_seed_base(training_seed)
        self._secrets = [] if not secret else sorted({secret, json.dumps(secret)[1:-1]}, key=len, reverse=True)
        self._lock = Lock()
        self._event: tuple[str, int] | None = None
        self._open, self._lines = False, list[dict[str, Any]]()

    def __call__(self, exchange: Exchange, decoding: Decoding, policy_version: int) -> None:
        """Take in one call of a server; what a step's first call has begun, later ones complete."""
        mode = EVAL if decoding.seed_base == self._evaluation_seed else TRAIN
        with self._lock:
            if self._event != (mode, policy_version):
                self._event, self._lines = (mode, policy_version), []
                self._open = self._due(mode, policy_version)
            room = self.bounds.max_samples - len(self._lines)
            if not self._open or room <= 0:
                return
            chosen = range(min(room, len(exchange)))

            def completed() -> list[dict[str, Any]]:
                self._lines += [self._line(mode, policy_version, exchange, number) for number in chosen]
                return self._lines

            self.files.write(mode, FILE_NAMES[mode].format(max(policy_version, 0)), completed)

    def take_observed(self) -> Observed:
        """What has been written since this was last asked, by metric key."""
        with self._lock:
            return self.files.take_observed()

    def _due(self, mode: str, policy_version: int) -> bool:
        if not self.files.has_room(mode):
            return False
        return mode == EVAL or self._cadence.due(policy_version)

    def _line(self, mode: str, policy_version: int, exchange: Exchange, number: int) -> dict[str, Any]:
        sent = exchange.body["infer_requests"][number]
        messages = [{**message, "content": self._shown(message["content"])} for message in sent["messages"]]
        line = {
            "mode": mode,
            "policy_version": policy_version,
            "server": self._hidden(exchange.server),
            "request": {
                "messages": messages,
                "images": [describe_image(image) for image in sent["images"]],
                "seed": sent["coordexp"].get("seed"),
            },
            "request_config": exchange.body["request_config"],
            "answer": None if number >= len(exchange.replies) else self._answer(exchange.replies[number]),
        }
        return dict(check("request-dump", line))

    def _answer(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        """Of a reply that fits `coordexp:http/infer-output`: what is read of it, and the whole as it came."""
        choice = reply["response"]["choices"][0]
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        whole = self._hidden(json.dumps({"coordexp": reply["coordexp"], **reply}, ensure_ascii=False))
        return {
            "finish_reason": choice["finish_reason"],
            "prompt_tokens": len(reply["response"]["prompt_token_ids"]),
            "response_tokens": len(choice["token_ids"]),
            "text": self._shown(text) if isinstance(text, str) else None,
            "reply": whole[: self.bounds.max_chars],
            "reply_chars": len(whole),
        }

    def _shown(self, text: str) -> str:
        return self._hidden(text)[: self.bounds.max_chars]

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def describe_image(encoded: str) -> dict[str, Any]:
    """Hash and size of the file that a request holds in base64."""
    content = base64.b64decode(encoded)
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
