"""One HTTP exchange, bounded as a whole: a request in, status, headers and body out, or one of four errors. ROLL-015.

A server that sends a byte now and then, sends without end, or ends in the middle is told as what it is. Nothing is
followed or retried, and no proxy of the environment has a part.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_S = 10.0
LARGEST_ANSWER = 2**30
"""Bytes of an answer that are read. A thousand answers of a thousand tokens with log-probabilities are a quarter."""
_PORTS = {"http": 80, "https": 443}
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
    if url.scheme not in _PORTS or not url.hostname:
        raise ValueError(f"{base_url} is no address of a server; write http://HOST:PORT")
    return Address(url.scheme, url.hostname, url.port or _PORTS[url.scheme])


def exchange(address: Address, sent: Sent, seconds: float | None) -> Reply:
    """Send and read the whole answer within `seconds` (None: however long it takes). Raises `ExchangeError`."""
    try:
        # httpx bounds each read, not the whole: a server that drips would never be late.
        return asyncio.run(asyncio.wait_for(_exchange(address, sent, seconds), seconds))
    except (httpx.ConnectError, httpx.ConnectTimeout, UnicodeError) as error:
        raise Unreachable(_told(error)) from error
    except TimeoutError as error:
        raise Overdue("the answer was not whole in time") from error
    except httpx.HTTPError as error:
        raise CutShort(_told(error)) from error


async def _exchange(address: Address, sent: Sent, seconds: float | None) -> Reply:
    limit = CONNECT_S if seconds is None else min(CONNECT_S, seconds)
    transport = httpx.AsyncHTTPTransport(socket_options=_socket_options())
    url = httpx.URL(scheme=address.scheme, host=address.host, port=address.port, path=sent.path)
    async with (
        httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(None, connect=limit), trust_env=False) as client,
        client.stream(sent.method, url, headers=sent.headers, content=sent.body) as response,
    ):
        parts, size = [], int(response.headers.get("content-length", "0"))
        if size <= LARGEST_ANSWER:
            size = 0
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > LARGEST_ANSWER:
                    break
        if size > LARGEST_ANSWER:
            raise TooLarge(f"more than {LARGEST_ANSWER} bytes")
        return Reply(response.status_code, dict(response.headers), b"".join(parts))


def _socket_options() -> list[tuple[int, int, int]]:
    named = [(getattr(socket, name), value) for name, value in _KEEP_ALIVE.items() if hasattr(socket, name)]
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, option, value) for option, value in named),
    ]


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
