"""One HTTP exchange, bounded as a whole: a request in, status, headers and body out, or one of four errors. ROLL-015.

A server that sends a byte now and then, sends without end, or ends in the middle is told as what it is. Nothing is
followed or retried, and no proxy of the environment has a part.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Event, Timer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONNECT_S = 10.0
LARGEST_ANSWER = 2**30
"""Bytes of an answer that are read. A thousand answers of a thousand tokens with log-probabilities are a quarter."""
_KINDS = {"http": HTTPConnection, "https": HTTPSConnection}
_PORTS = {"http": 80, "https": 443}
_CHUNK = 2**20
# A peer whose machine has gone sends nothing, ever: idle seconds before it is asked, between askings, askings.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class ExchangeError(OSError):
    """No whole answer has come; the subclass says why."""


class Unreachable(ExchangeError):
    """No connection could be made."""


class Overdue(ExchangeError):
    """The answer was not whole in time."""


class CutShort(ExchangeError):
    """The connection ended, or said what is no HTTP, before the answer was whole."""


class TooLarge(ExchangeError):
    """The answer has more than `LARGEST_ANSWER` bytes."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent to a path."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def parse_address(base_url: str) -> Address:
    """Scheme, host and port of a URL without a path. Raises `ValueError` where it is none."""
    url = urlsplit(base_url)
    if url.scheme not in _KINDS or not url.hostname:
        raise ValueError(f"{base_url} is no address of a server; write http://HOST:PORT")
    return Address(url.scheme, url.hostname, url.port or _PORTS[url.scheme])


def exchange(address: Address, sent: Sent, seconds: float | None) -> Reply:
    """Send and read the whole answer within `seconds` (None: however long it takes). Raises `ExchangeError`."""
    started = time.monotonic()
    limit = CONNECT_S if seconds is None else min(CONNECT_S, seconds)
    connection = _KINDS[address.scheme](address.host, address.port, timeout=limit)
    try:
        _connect(connection, limit)
        left = None if seconds is None else max(seconds - (time.monotonic() - started), 0.001)
        with _ending(connection.sock, left):
            connection.request(sent.method, sent.path, sent.body, dict(sent.headers))
            return _read(connection.getresponse())
    finally:
        connection.close()


def _connect(connection: HTTPConnection, limit: float) -> None:
    try:
        connection.connect()
    except TimeoutError as error:
        raise Unreachable(f"no connection within {limit:g} s") from error
    except (OSError, UnicodeError) as error:
        raise Unreachable(str(error)) from error
    connection.sock.settimeout(None)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextmanager
def _ending(connection: socket.socket, seconds: float | None) -> Iterator[None]:
    """Whatever is sent or read inside ends after `seconds`; failures of it as `ExchangeError`."""
    passed = Event()

    def end() -> None:
        passed.set()
        with suppress(OSError):
            # Past a TLS layer, which another thread may not touch.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = None if seconds is None else Timer(seconds, end)
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    except TooLarge:
        raise
    except (OSError, HTTPException, ValueError) as error:
        if passed.is_set():
            raise Overdue("the answer was not whole in time") from error
        text = " ".join(str(error).split())
        raise CutShort(text or type(error).__name__) from error
    finally:
        if timer is not None:
            timer.cancel()


def _read(response: HTTPResponse) -> Reply:
    parts, size = [], response.length or 0
    if size <= LARGEST_ANSWER:
        size = 0
        while size <= LARGEST_ANSWER and (part := response.read(_CHUNK)):
            parts.append(part)
            size += len(part)
    if size > LARGEST_ANSWER:
        raise TooLarge(f"more than {LARGEST_ANSWER} bytes")
    if response.length:
        raise CutShort(f"{response.length} bytes of the answer are missing")
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, b"".join(parts))
