"""Where the Runtime API listens, how to reach it, and one blocking call for start-up."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from lambda_stream.wire import Answer, AnswerParser, ProtocolError, request_head

USER_AGENT = ("User-Agent", "lambda-stream/0.1.0")


@dataclass(frozen=True, slots=True)
class Address:
    """`AWS_LAMBDA_RUNTIME_API`, resolved once: the process keeps it for its life."""

    host: str
    family: int
    target: tuple[str, int] | tuple[str, int, int, int]

    @classmethod
    def resolve(cls, text: str) -> Address:
        """From `host`, `host:port` or `[v6]:port`. Raises OSError or ValueError."""
        name, colon, port = text.rpartition(":")
        if not colon or name.endswith(":") or (":" in name and not name.startswith("[")):
            name, port = text, "80"
        number = int(port)
        found = socket.getaddrinfo(name.strip("[]"), number, type=socket.SOCK_STREAM)
        # A name such as localhost may stand for both; runtimes listen on version 4.
        family, _, _, _, target = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return cls(text, family, (str(target[0]), number, *target[2:]))

    def new_socket(self) -> socket.socket:
        """An unconnected TCP socket that never holds a small frame back."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> bytes:
        """A whole request with a body of known length (none: no Content-Length)."""
        fields = [USER_AGENT, *headers]
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
        head = request_head(method, path, host=self.host, headers=fields)
        return head + (body or b"")


class BlockingConnection:
    """A connection for start-up, before there is an event loop; timeouts in seconds."""

    def __init__(self, address: Address, *, timeout_s: float | None) -> None:
        self._sock = address.new_socket()
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(address.target)
        except OSError:
            self._sock.close()
            raise

    def exchange(self, request: bytes) -> Answer:
        """Send and wait for the answer. Raises OSError or ProtocolError."""
        self.send(request)
        parser = AnswerParser()
        while (answer := parser.feed(self._sock.recv(65536))) is None:
            pass
        return answer

    def send(self, request: bytes) -> None:
        self._sock.sendall(request)

    def close(self) -> None:
        self._sock.close()


def call_blocking(address: Address, request: bytes, *, timeout_s: float | None) -> Answer | None:
    """One exchange on a connection of its own; None where the other side fails to answer."""
    try:
        connection = BlockingConnection(address, timeout_s=timeout_s)
    except OSError:
        return None
    try:
        return connection.exchange(request)
    except (OSError, ProtocolError):
        return None
    finally:
        connection.close()
