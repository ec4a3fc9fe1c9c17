"""One rollout server over HTTP: checked bodies out, checked answers in, one error for all else. ROLL-015, 016, 028.

The endpoints and their contracts are those of contracts/http/. A server that decodes answers nothing else, not even
/health/: whether it lives is then told by its socket.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from coordexp.rollout.exchange import (
    CONNECT_S,
    CutShort,
    Overdue,
    Reply,
    Sent,
    TooLarge,
    Unreachable,
    exchange,
    parse_address,
)
from coordexp.rollout.serve import API_KEY_VARIABLE
from coordexp.rollout.types import RolloutError
from coordexp.spec import ContractViolation, check, contract_path, read_yaml

_JSON = "application/json"
_SHOWN = 300
"""Characters of a server's own text that an error shows."""


class RolloutServerError(RolloutError):
    """A rollout server that cannot be used as it is; the message names it, the call, and what to do."""


class BrokenReply(RolloutServerError):
    """The connection ended before the answer did. The call may be repeated where it is idempotent."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of contracts/http/endpoints.yaml."""

    path: str
    method: str
    key: bool
    request: str | None
    response: str
    idempotent: bool


@lru_cache(maxsize=1)
def load_endpoints() -> dict[str, Endpoint]:
    """The endpoints that are used, by path."""
    document = check("http/endpoints", read_yaml(contract_path("http/endpoints.yaml")))
    rows = ({name: row[name] for name in Endpoint.__slots__} for row in document["endpoints"])
    return {row["path"]: Endpoint(**row) for row in rows}


class ServerConnection:
    """A server at `base_url`. `timeout_s` bounds every call but `/infer/`, which `infer_timeout_s` bounds; None: never.

    Usable from several threads: each call has a connection of its own.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float, infer_timeout_s: float | None) -> None:
        self.base_url = base_url
        self.timeout_s, self.infer_timeout_s = timeout_s, infer_timeout_s
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._address = parse_address(base_url)
        except ValueError as error:
            raise RolloutServerError(f"rollout_matching.vllm.server.servers[].base_url: {error}") from error
        self.host, self.port = self._address.host, self._address.port

    def accepts(self) -> bool:
        """Whether something listens at the server's port, as a busy server does and one that has ended does not."""
        try:
            with socket.create_connection((self.host, self.port), timeout=CONNECT_S):
                return True
        except OSError:
            return False

    def wait_until_ready(self, seconds: float, interval: float = 0.5) -> None:
        """Return when /health/ answers. Raises `RolloutServerError` when it has not within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.call("/health/", timeout_s=max(interval, 1.0))
            except RolloutServerError as error:
                if time.monotonic() >= deadline:
                    text = f"{self.base_url} is not ready after {seconds:g} s (vllm.server.timeout_s): {error}"
                    raise RolloutServerError(text) from error
                time.sleep(interval)
            else:
                return

    def call(self, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        """The answer of an endpoint, checked against its contract.

        Raises `RolloutServerError`; `BrokenReply` where the connection broke or the answer is cut short.
        """
        endpoint = load_endpoints()[path]
        if endpoint.request is not None:
            check(endpoint.request, body)
        bound = timeout_s if timeout_s is not None else self.infer_timeout_s if path == "/infer/" else self.timeout_s
        reply = self._send(endpoint, body, bound)
        if reply.status != HTTPStatus.OK:
            raise RolloutServerError(self._refusal(path, reply))
        answer = self._parsed(path, reply)
        outputs = answer if path == "/infer/" and isinstance(answer, list) else None
        for number, item in enumerate([answer] if outputs is None else outputs):
            try:
                check(endpoint.response, item)
            except ContractViolation as error:
                which = "" if outputs is None else f"output {number}: "
                raise RolloutServerError(f"{self._named(path)}: {which}{error}; {OTHER_SERVER}") from error
        return answer

    def _send(self, endpoint: Endpoint, body: dict[str, Any] | None, bound: float | None) -> Reply:
        headers = self._headers if endpoint.key else {}
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        if content is not None:
            headers = {**headers, "Content-Type": _JSON}
        where = self._named(endpoint.path)
        try:
            return exchange(self._address, Sent(endpoint.method, endpoint.path, headers, content), bound)
        except Unreachable as error:
            text = "nothing can be reached there: it has ended, or was never started"
            raise RolloutServerError(f"{where}: {text} ({error}); start it, and look at its log") from error
        except Overdue as error:
            key = "vllm.server.infer_timeout_s" if endpoint.path == "/infer/" else "vllm.server.timeout_s"
            advice = f"raise {key} if it needs longer, or look at the server's log"
            raise RolloutServerError(f"{where}: no whole answer within {bound:g} s; {advice}") from error
        except TooLarge as error:
            raise RolloutServerError(f"{where}: its answer has {error}; {OTHER_SERVER}") from error
        except CutShort as error:
            if not self.accepts():
                text = "it has ended in the middle of the answer"
                raise RolloutServerError(f"{where}: {text} ({error}); look at its log, and start it again") from error
            text = f"the connection broke before the answer was whole ({error})"
            raise BrokenReply(f"{where}: {text}; look at the server's log") from error

    def _parsed(self, path: str, reply: Reply) -> Any:
        """The JSON of an answer."""
        where, shown = self._named(path), reply.body[:_SHOWN].decode(errors="replace")
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            if reply.headers.get("content-type", "").startswith(_JSON):
                text = f"its answer is not whole JSON ({error})"
                raise BrokenReply(f"{where}: {text}; look at the server's log") from error
            text = f"its answer is no JSON but {' '.join(shown.split())!r}"
            raise RolloutServerError(f"{where}: {text}; {OTHER_SERVER}") from error

    def _refusal(self, path: str, reply: Reply) -> str:
        where = f"{self._named(path)}: {reply.status}"
        if reply.status == HTTPStatus.UNAUTHORIZED:
            return f"{where}, the API key is not its own; set {API_KEY_VARIABLE} to the key it was started with"
        if reply.status == HTTPStatus.NOT_FOUND:
            return f"{where}, it has no such endpoint; {OTHER_SERVER}"
        if "location" in reply.headers:
            return f"{where}, it sends elsewhere ({reply.headers['location'][:_SHOWN]}); base_url must be its own"
        text = " ".join(reply.body[: 4 * _SHOWN].decode(errors="replace").split())[:_SHOWN]
        return f"{where} {text}; the server's log has the cause"

    def _named(self, path: str) -> str:
        return f"rollout server {self.base_url}{path}"


OTHER_SERVER = "start it with scripts/train_stage2.sh or coordexp.rollout.serve of this version"
