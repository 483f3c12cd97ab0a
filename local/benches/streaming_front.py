"""A Runtime API with nothing to it, to measure runtimes with: the bench itself is the client.

It does the same for each runtime and as little as it can, on one thread: the event goes out, the
streamed answer is read raw. A relay between would cost more than what is measured.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from http import HTTPStatus

PIECE_BYTES = 1 << 20
_WAIT_LIMIT_S = 20.0


class StreamingFront:
    """One runtime's Runtime API on a port of its own choice."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._data: dict[socket.socket, bytes] = {}
        self._next: socket.socket | None = None
        self._number = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for sock in self._data:
            sock.close()
        self._selector.close()
        self._listener.close()

    def ask(self, target: str, marker: bytes) -> tuple[float, float, bytes]:
        """Seconds until `marker` came and until the end; the raw chunked body, prelude included."""
        while self._next is None:
            self._serve_one()
        runtime, self._next = self._next, None
        event = _event(target)
        began_s = time.perf_counter()
        runtime.sendall(self._invocation(event))
        while (found := self._serve_one()) is None:
            pass
        sock, got = found
        first_s = 0.0
        while True:
            if not first_s and marker in got:
                first_s = time.perf_counter() - began_s
            if got.endswith(b"\r\n0\r\n\r\n"):
                break
            piece = sock.recv(PIECE_BYTES)
            if not piece:
                raise RuntimeError(f"the stream broke off: {got[-200:]!r}")
            got += piece
        whole_s = time.perf_counter() - began_s
        sock.sendall(_answer(HTTPStatus.ACCEPTED))
        return first_s, whole_s, got

    def _serve_one(self) -> tuple[socket.socket, bytes] | None:
        """Wait for bytes and serve what they ask; return an answer that began to stream in."""
        ready = self._selector.select(_WAIT_LIMIT_S)
        if not ready:
            raise RuntimeError("the runtime does not ask for work")
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                found = self._receive(key.fileobj)
                if found is not None:
                    return key.fileobj, found
        return None

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data[sock] = b""
        self._selector.register(sock, selectors.EVENT_READ)

    def _receive(self, sock: socket.socket) -> bytes | None:
        piece = sock.recv(PIECE_BYTES)
        if not piece:
            self._selector.unregister(sock)
            del self._data[sock]
            sock.close()
            return None
        data = self._data[sock] + piece
        head, end, rest = data.partition(b"\r\n\r\n")
        self._data[sock] = data
        if not end:
            return None
        lines = head.decode("latin-1").split("\r\n")
        fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        if len(rest) < int(fields.get("content-length", "0")):
            return None
        self._data[sock] = b""
        path = lines[0].split(" ")[1]
        if path.endswith("/response"):
            return rest
        if path.endswith("/invocation/next"):
            self._next = sock
        elif path.endswith("/register"):
            sock.sendall(_answer(HTTPStatus.OK, "Lambda-Extension-Identifier: one\r\n"))
        elif not path.endswith("/event/next"):  # that one stays open
            raise RuntimeError(f"{lines[0]}: {rest[:500]!r}")
        return None

    def _invocation(self, event: bytes) -> bytes:
        self._number += 1
        deadline_ms = int((time.time() + 60) * 1000)
        fields = (
            f"Lambda-Runtime-Aws-Request-Id: 00000000-0000-0000-0000-{self._number:012}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {deadline_ms}\r\n"
            "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:1:function:f\r\n"
            "Lambda-Runtime-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0\r\n"
        )
        return _answer(HTTPStatus.OK, fields, event)


def _answer(status: HTTPStatus, fields: str = "", body: bytes = b"{}") -> bytes:
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{fields}{kind}\r\n".encode() + body


def _event(target: str) -> bytes:
    path, _, query = target.partition("?")
    http = {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    about = {
        "accountId": "1", "apiId": "a", "domainName": "a.on.aws", "domainPrefix": "a",
        "requestId": "r", "routeKey": "$default", "stage": "$default",
        "time": "12/Mar/2026:19:03:58 +0000", "timeEpoch": 1_700_000_000_000,
        "http": http | {"userAgent": "bench"},
    }  # fmt: skip
    event = {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
        "headers": {"host": "a.on.aws"}, "requestContext": about, "isBase64Encoded": False,
    }  # fmt: skip
    return json.dumps(event).encode()
