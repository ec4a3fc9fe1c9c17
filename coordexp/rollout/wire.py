"""One rollout server over HTTP: checked bodies out, checked answers in, one error for all else. ROLL-015, ROLL-016.

The endpoints and their contracts are those of contracts/http/. A server that decodes answers nothing else, not even
/health/: whether it lives is then told by its socket.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import requests

from coordexp.rollout.types import RolloutError
from coordexp.spec import ContractViolation, check, contract_path, read_yaml

_CONNECT_S = 10.0
_PORTS = {"http": 80, "https": 443}
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
        url = urlsplit(base_url)
        self.host = url.hostname or ""
        self.port = url.port or _PORTS[url.scheme]

    def accepts(self) -> bool:
        """Whether something listens at the server's port, as a busy server does and one that has ended does not."""
        try:
            with socket.create_connection((self.host, self.port), timeout=_CONNECT_S):
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
        if reply.status_code != requests.codes.ok:
            raise RolloutServerError(self._refusal(path, reply))
        try:
            answer = reply.json()
        except requests.exceptions.JSONDecodeError as error:
            raise BrokenReply(f"{self._named(path)}: its answer is not whole JSON ({error})") from error
        try:
            for item in answer if path == "/infer/" and isinstance(answer, list) else [answer]:
                check(endpoint.response, item)
        except ContractViolation as error:
            raise RolloutServerError(f"{self._named(path)}: {error}; {_OTHER_SERVER}") from error
        return answer

    def _send(self, endpoint: Endpoint, body: dict[str, Any] | None, bound: float | None) -> requests.Response:
        headers = self._headers if endpoint.key else {}
        where = self._named(endpoint.path)
        try:
            with requests.Session() as session:
                # A proxy of the environment has no part in a call to a server of ours.
                session.trust_env = False
                return session.request(
                    endpoint.method,
                    self.base_url + endpoint.path,
                    json=body,
                    headers=headers,
                    timeout=(_CONNECT_S, bound),
                    allow_redirects=False,
                )
        except requests.exceptions.Timeout as error:
            key = "vllm.server.infer_timeout_s" if endpoint.path == "/infer/" else "vllm.server.timeout_s"
            text = f"{where}: no answer within {bound:g} s" if bound else f"{where}: cannot be reached"
            advice = f"raise {key} if it needs longer, or look at the server's log"
            raise RolloutServerError(f"{text}; {advice}") from error
        except requests.exceptions.ConnectionError as error:
            if not self.accepts():
                text = "nothing listens there: it has ended, or was never started"
                raise RolloutServerError(f"{where}: {text}; start it, and look at its log") from error
            raise BrokenReply(f"{where}: the connection broke before the answer was whole ({_cause(error)})") from error
        except requests.exceptions.RequestException as error:
            raise BrokenReply(f"{where}: the answer could not be read ({_cause(error)})") from error

    def _refusal(self, path: str, reply: requests.Response) -> str:
        where = f"{self._named(path)}: {reply.status_code}"
        if reply.status_code == requests.codes.unauthorized:
            return f"{where}, the API key is not its own; set COORDEXP_ROLLOUT_API_KEY to the key it was started with"
        if reply.status_code == requests.codes.not_found:
            return f"{where}, it has no such endpoint; {_OTHER_SERVER}"
        text = " ".join(reply.text.split())[:_SHOWN]
        return f"{where} {text}; the server's log has the cause"

    def _named(self, path: str) -> str:
        return f"rollout server {self.base_url}{path}"


_OTHER_SERVER = "start it with scripts/train_stage2.sh or coordexp.rollout.serve of this version"


def _cause(error: BaseException) -> str:
    """The innermost text of an error, on one line."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split())[:_SHOWN]
