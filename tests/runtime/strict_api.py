"""A Runtime API that checks every byte of its client, keeps chunk boundaries, and can misbehave."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import struct
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

ANSWER_LIMIT_BYTES = 6_291_556
CHUNK_LINE = re.compile(rb"[0-9a-f]{1,8}")
FIELD = re.compile(rb"([A-Za-z0-9\-]+): ([\x20-\x7e\x80-\xff]*)")
INVOCATION = re.compile(r"/2018-06-01/runtime/invocation/([^/]+)/(response|error)")


@dataclass(frozen=True)
class Fault:
    """What the server does to an answer: after so many chunks, reset, close or answer early."""

    after_chunks: int
    status: int | None = None
    reset: bool = False


@dataclass
class Call:
    """One invocation: what was asked, and all that came back."""

    event: bytes
    request_id: str
    headers: dict[str, str]
    deadline_s: float
    fault: Fault | None
    began: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    kind: str = ""
    request_headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    chunk_times_s: list[float] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    connection: int = 0
    ended_cleanly: bool = False
    settled: bool = False
    answered_at_s: float = 0.0
    taken_at_s: float = 0.0

    def wait(self, timeout_s: float = 30.0) -> Call:
        """Wait for the whole answer."""
        assert self.answered.wait(timeout_s), f"no answer to {self.event[:200]!r}"
        return self

    def wait_closed(self, timeout_s: float = 30.0) -> Call:
        """Wait until the runtime asked for the next invocation."""
        assert self.closed.wait(timeout_s), "the runtime never asked for the next invocation"
        return self

    @property
    def prelude(self) -> dict[str, Any]:
        return json.loads(self.chunks[0])  # type: ignore[no-any-return]

    @property
    def payload(self) -> bytes:
        """The streamed body without prelude and delimiter."""
        assert self.chunks[1] == bytes(8)
        return b"".join(self.chunks[2:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Violation(Exception):
    """The runtime broke the protocol."""


class _Connection:
    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number, self.buffer = sock, number, b""

    def fill(self) -> bool:
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            if not self.fill():
                raise EOFError
        line, self.buffer = self.buffer.split(b"\n", 1)
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise Violation(f"bad line end: {line!r}")
        return line[:-1]

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self.fill():
                raise EOFError
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def fields(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while line := self.line():
            match = FIELD.fullmatch(line)
            if match is None:
                raise Violation(f"bad field: {line!r}")
            name = match[1].decode().lower()
            if name in found:
                raise Violation(f"repeated field: {name}")
            found[name] = match[2].decode("latin-1")
        return found

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


def _refusal(call: Call) -> int | None:
    """The status of an answer in one piece that is not taken."""
    if call.fault is not None and call.fault.status is not None:
        return call.fault.status
    return 413 if len(call.body) > ANSWER_LIMIT_BYTES else None


class StrictRuntimeAPI:
    """Serves one runtime. `violations` must be empty at a test's end."""

    def __init__(self, *, extensions: bool = True, next_status: int = 200) -> None:
        self.violations: list[str] = []
        self.requests: list[str] = []
        self.init_error: dict[str, Any] | None = None
        self.init_error_headers: dict[str, str] = {}
        self.restore_error: dict[str, Any] | None = None
        self.registered: dict[str, Any] = {}
        self.extension_waits = threading.Event()
        self.asked_next = threading.Event()
        self.restore_asked = threading.Event()
        self.restore_go = threading.Event()
        self.init_failed = threading.Event()
        self.drop_idle = False
        self.answer_delay_s = 0.0
        self._extensions = extensions
        self._next_status = next_status
        self._calls: queue.Queue[Call | None] = queue.Queue()
        self._open: Call | None = None
        self._sockets: list[socket.socket] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def invoke(
        self,
        event: Any,
        *,
        deadline_s: float = 30.0,
        fault: Fault | None = None,
        **headers: str,
    ) -> Call:
        """Queue an invocation; header names are given with underscores."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        call = Call(body, str(uuid.uuid4()), headers, deadline_s, fault)
        self._calls.put(call)
        return call

    def close(self) -> None:
        self._closing = True
        self._calls.put(None)
        self.restore_go.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        number = 0
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            connection = _Connection(sock, number)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: _Connection) -> None:
        try:
            while self._one(connection):
                pass
        except (OSError, EOFError):
            pass
        except Violation as violation:
            self.violations.append(str(violation))
        finally:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.sock.close()

    def _one(self, connection: _Connection) -> bool:
        if not connection.buffer and not connection.fill():
            return False
        method, target, version = connection.line().decode().split(" ")
        headers = connection.fields()
        self.requests.append(f"{method} {target}")
        if version != "HTTP/1.1" or headers.get("host") != self.address:
            raise Violation(f"bad request line or host: {method} {target} {version} {headers}")
        if method == "GET" and ("content-length" in headers or "transfer-encoding" in headers):
            raise Violation("a GET with a body")
        if found := INVOCATION.fullmatch(target):
            return self._take_answer(connection, method, found[1], found[2], headers)
        body = connection.exactly(int(headers.get("content-length", "0")))
        match method, target:
            case "GET", "/2018-06-01/runtime/invocation/next":
                return self._give_next(connection)
            case "POST", "/2018-06-01/runtime/init/error":
                self.init_error, self.init_error_headers = json.loads(body), headers
                self.init_failed.set()
                connection.answer(202, b'{"status":"OK"}')
            case "GET", "/2018-06-01/runtime/restore/next":
                self.restore_asked.set()
                self.restore_go.wait(20)
                connection.answer(200)
            case "POST", "/2018-06-01/runtime/restore/error":
                self.restore_error = json.loads(body)
                self.init_failed.set()
                connection.answer(202)
            case "POST", "/2020-01-01/extension/register" if self._extensions:
                self.registered = {"name": headers["lambda-extension-name"], **json.loads(body)}
                connection.answer(200, b"{}", Lambda_Extension_Identifier="ext-1")
            case "GET", "/2020-01-01/extension/event/next" if self._extensions:
                if headers.get("lambda-extension-identifier") != "ext-1":
                    raise Violation("the extension did not give its identifier")
                self.extension_waits.set()
            case _, path if path.startswith("/2020-01-01/"):
                connection.answer(404, b"404 page not found")
            case _:
                raise Violation(f"unknown request {method} {target}")
        return True

    def _give_next(self, connection: _Connection) -> bool:
        if self._open is not None:
            if not self._open.settled:
                self.violations.append("asked for the next invocation before answering")
            self._open.closed.set()
            self._open = None
        self.asked_next.set()
        if self._next_status != 200:
            connection.answer(self._next_status, b"{}")
            return False
        call = self._calls.get()
        if call is None:
            return False
        self._open = call
        call.taken_at_s = time.monotonic()
        deadline_ms = int((time.time() + call.deadline_s) * 1000)
        headers = {
            "Lambda_Runtime_Aws_Request_Id": call.request_id,
            "Lambda_Runtime_Deadline_Ms": str(deadline_ms),
            "Lambda_Runtime_Invoked_Function_Arn": "arn:aws:lambda:eu-west-1:1:function:f",
            "Content_Type": "application/json",
        }
        connection.answer(200, call.event, **(headers | call.headers))
        return not self.drop_idle

    def _take_answer(
        self,
        connection: _Connection,
        method: str,
        request_id: str,
        kind: str,
        headers: dict[str, str],
    ) -> bool:
        call = self._open
        if method != "POST" or call is None or call.request_id != request_id:
            raise Violation(f"{method} {kind} for an invocation that is not open")
        if call.kind:
            self.violations.append(f"{kind} after {call.kind}")
        call.kind, call.request_headers, call.connection = kind, headers, connection.number
        call.began.set()
        if headers.get("transfer-encoding") == "chunked":
            going_on = self._read_stream(connection, call)
        else:
            call.body = connection.exactly(int(headers["content-length"]))
            call.ended_cleanly = going_on = True
            if kind == "response" and (status := _refusal(call)):
                call.kind = ""  # refused: an error may still follow
                connection.answer(status, b'{"errorType":"Refused"}')
                return True
            call.settled = True
            connection.answer(202, b'{"status":"OK"}')
        call.answered_at_s = time.monotonic()
        call.answered.set()
        return going_on

    def _read_stream(self, connection: _Connection, call: Call) -> bool:
        if "content-length" in call.request_headers:
            raise Violation("both Content-Length and chunks")
        try:
            while True:
                if call.fault is not None and call.fault.after_chunks == len(call.chunks):
                    call.settled = True
                    return self._inject(connection, call.fault)
                size_line = connection.line()
                if not CHUNK_LINE.fullmatch(size_line):
                    raise Violation(f"bad chunk size {size_line!r}")
                size = int(size_line, 16)
                if size == 0:
                    break
                call.chunks.append(connection.exactly(size))
                call.chunk_times_s.append(time.monotonic())
                if connection.exactly(2) != b"\r\n":
                    raise Violation("a chunk without its end")
        except EOFError:
            return False
        call.trailers = connection.fields()
        declared = {n.strip().lower() for n in call.request_headers.get("trailer", "").split(",")}
        if not set(call.trailers) <= declared:
            raise Violation(f"undeclared trailers {set(call.trailers) - declared}")
        if connection.buffer:
            raise Violation("bytes after the last chunk")
        call.ended_cleanly = True
        time.sleep(self.answer_delay_s)
        call.settled = True
        connection.answer(202, b'{"status":"OK"}')
        return not connection.fill()

    def _inject(self, connection: _Connection, fault: Fault) -> bool:
        if fault.status is not None:
            connection.answer(fault.status, b'{"errorType":"Early"}', Connection="close")
        if fault.reset:
            linger = struct.pack("ii", 1, 0)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sock.close()
        return False
