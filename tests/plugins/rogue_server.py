"""A rollout server that answers what it is told, on a real socket: what no good server can be made to do.

Each path has a list of behaviours, one a call, of which the last stays. A behaviour is given the call and its socket.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any


@dataclass(frozen=True)
class Call:
    """What a client has sent, and when."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    at: float


Behaviour = Callable[[Call, socket.socket], None]


@dataclass
class Rogue:
    """The server of `base_url`, with every call that it has seen."""

    listener: socket.socket
    paths: dict[str, list[Behaviour]]
    seen: list[Call] = field(default_factory=list)
    ended: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)
    held: list[socket.socket] = field(default_factory=list)
    base_url: str = field(init=False)

    def __post_init__(self) -> None:
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def calls(self, path: str) -> list[Call]:
        return [call for call in self.seen if call.path == path]

    def end(self) -> None:
        """As a process that is killed: nothing listens, and every connection is reset."""
        self.ended.set()
        # A thread that waits in accept would keep the socket open.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.held:
            reset(connection)

    def serve(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            Thread(target=self.handle, args=(connection,), daemon=True).start()

    def handle(self, connection: socket.socket) -> None:
        with self.lock:
            self.held.append(connection)
        with suppress(OSError):
            call = read_call(connection)
            if call is None:
                connection.close()
                return
            with self.lock:
                self.seen.append(call)
                behaviours = self.paths.get(call.path, [status(404, {"detail": "Not Found"})])
                behaviour = behaviours[min(len(self.calls(call.path)), len(behaviours)) - 1]
            behaviour(call, connection)
        connection.close()


@contextmanager
def rogue(paths: Mapping[str, Behaviour | list[Behaviour]] | None = None) -> Iterator[Rogue]:
    """A server that behaves as `paths` says; whatever else is asked for is not found."""
    listener = socket.create_server(("127.0.0.1", 0))
    given = {} if paths is None else paths
    server = Rogue(listener, {path: told if isinstance(told, list) else [told] for path, told in given.items()})
    Thread(target=server.serve, daemon=True).start()
    try:
        yield server
    finally:
        server.end()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_call(connection: socket.socket) -> Call | None:
    """The whole request; None where a connection was only tried."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(1 << 20)
    method, path, _ = first.split(" ")
    return Call(method, path, headers, json.loads(body) if body else None, time.monotonic())


def reset(connection: socket.socket) -> None:
    """End a connection with RST instead of FIN."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    connection.close()


def head(code: int, length: int | None, kind: str = "application/json", more: str = "") -> bytes:
    told = "" if length is None else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\n{told}{more}Connection: close\r\n\r\n".encode()


def status(code: int, body: Any = None, more: str = "") -> Behaviour:
    """An answer of this status."""
    content = b"" if body is None else json.dumps(body).encode()
    return lambda call, connection: connection.sendall(head(code, len(content), more=more) + content)


def says(body: Any) -> Behaviour:
    """A good answer, or one made from the call."""

    def behave(call: Call, connection: socket.socket) -> None:
        content = json.dumps(body(call) if callable(body) else body).encode()
        connection.sendall(head(200, len(content)) + content)

    return behave


def raw(content: bytes, kind: str = "application/json") -> Behaviour:
    """Bytes as the body of a 200."""
    return lambda call, connection: connection.sendall(head(200, len(content), kind) + content)


def wire(content: bytes) -> Behaviour:
    """Bytes as they are."""
    return lambda call, connection: connection.sendall(content)


def cut(content: bytes, more: int = 100) -> Behaviour:
    """The beginning of an answer, then a reset."""

    def behave(call: Call, connection: socket.socket) -> None:
        connection.sendall(head(200, len(content) + more) + content)
        time.sleep(0.05)
        reset(connection)

    return behave


def late(seconds: float, then: Behaviour) -> Behaviour:
    """`then` after a while."""

    def behave(call: Call, connection: socket.socket) -> None:
        time.sleep(seconds)
        then(call, connection)

    return behave


def drips(content: bytes, pause: float) -> Behaviour:
    """An answer a byte at a time, which no limit on a single read ever ends."""

    def behave(call: Call, connection: socket.socket) -> None:
        for byte in head(200, len(content)) + content:
            connection.sendall(bytes([byte]))
            time.sleep(pause)

    return behave


def floods(total: int) -> Behaviour:
    """An answer without a stated length, of `total` bytes of JSON that never closes."""

    def behave(call: Call, connection: socket.socket) -> None:
        connection.sendall(head(200, None) + b"[")
        for _ in range(0, total, 65536):
            connection.sendall(b"1," * 32768)
        # A client that reads on waits here.
        time.sleep(8)

    return behave


def ends(server: Callable[[], Rogue]) -> Behaviour:
    """The server is killed while it answers."""

    def behave(call: Call, connection: socket.socket) -> None:
        connection.sendall(head(200, 1000) + b"[")
        server().end()

    return behave
