"""An invocation and its reply: the value that passes between callers, pools and environments."""

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_HIGH_WATER_BYTES = 256 * 1024
JSON_TYPE = "application/json"
HTTP_STREAM_TYPE = "application/vnd.awslambda.http-integration-response"


@dataclass(frozen=True, slots=True)
class Failure:
    """A function error as AWS words it; `body` is the JSON document a caller reads."""

    error_type: str
    message: str
    body: bytes = b""

    def document(self) -> bytes:
        if self.body:
            return self.body
        return json.dumps({"errorType": self.error_type, "errorMessage": self.message}).encode()


@dataclass(frozen=True, slots=True)
class Head:
    """What is known when a reply begins. `function_error` is AWS's header value or None."""

    content_type: str
    streaming: bool = False
    function_error: str | None = None


class Abandoned(Exception):
    """The caller left before the reply ended."""


class Reply:
    """A head, bytes as they come, and an end that may carry a failure.

    The environment calls `begin`, `feed`, `end`; the caller awaits `head` and then `chunk` until
    it returns b"" and looks at `failure`. A caller that leaves calls `abandon`.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[Head] = loop.create_future()
        self.failure: Failure | None = None
        self.ended = False
        self.ended_at_s = 0.0  # monotonic
        self.abandoned = False
        self.on_abandon: Callable[[], None] | None = None
        self._buffer = bytearray()
        self._data: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def begin(self, head: Head) -> None:
        if not self.head.done():
            self.head.set_result(head)

    def feed(self, data: bytes) -> None:
        if not (self.ended or self.abandoned):
            self._buffer += data
            _wake(self._data)

    async def room(self) -> None:
        """Wait while the caller is slower than the function."""
        while len(self._buffer) > _HIGH_WATER_BYTES and not self.abandoned:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def end(self, failure: Failure | None = None) -> None:
        if self.ended:
            return
        if failure is not None and not self.head.done():
            self.begin(Head(JSON_TYPE, function_error="Unhandled"))
            self._buffer += failure.document()
        self.failure = failure
        self.ended = True
        self.ended_at_s = time.monotonic()
        _wake(self._data)

    def abandon(self) -> None:
        if self.abandoned or self.ended:
            return
        self.abandoned = True
        self._buffer.clear()
        _wake(self._data)
        _wake(self._room)
        if self.on_abandon is not None:
            self.on_abandon()

    async def begun(self, gone: asyncio.Future[None]) -> Head:
        """The head, once there is one; `Abandoned` when the caller's `gone` is done first."""
        waiters: set[asyncio.Future[Any]] = {self.head, gone}
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            raise Abandoned
        return self.head.result()

    async def chunk(self) -> bytes:
        """All bytes that are there, at least one; b"" at the end."""
        while not self._buffer:
            if self.abandoned:
                raise Abandoned
            if self.ended:
                return b""
            self._data = asyncio.get_running_loop().create_future()
            await self._data
        data = bytes(self._buffer)
        self._buffer.clear()
        _wake(self._room)
        return data

    async def read(self) -> bytes:
        """The whole reply; `failure` tells whether it is one."""
        pieces: list[bytes] = []
        while data := await self.chunk():
            pieces.append(data)
        return b"".join(pieces)


def _new_trace_id() -> str:
    return f"Root=1-{int(time.time()):08x}-{os.urandom(12).hex()};Sampled=0"


@dataclass(eq=False, slots=True)
class Invocation:
    """One request to a function. Made inside the event loop."""

    payload: bytes
    arn: str
    client_context: str | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    trace_id: str = field(default_factory=_new_trace_id)
    reply: Reply = field(default_factory=Reply)
    init_crashes: int = 0
    started_at_s: float = 0.0  # monotonic
    log_tail: bytearray = field(default_factory=bytearray)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
