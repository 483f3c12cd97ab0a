"""The two ways an HTTP answer leaves: streamed behind a prelude, or whole as one JSON document."""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lambda_stream.failure import Failure
from lambda_stream.http_event import Payload
from lambda_stream.runtime_api import Invocation, RuntimeAPI
from lambda_stream.stream import AnswerStream
from lambda_stream.wire import Answer, chunk

MAX_PRELUDE_BYTES = 16 * 1024
_DELIMITER = bytes(8)
# They belong to one connection, which is not the client's (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Prelude:
    """Status and headers of an answer; `headers` in order, lower case, cookies apart."""

    status: int
    headers: tuple[tuple[str, str], ...]
    cookies: tuple[str, ...]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def without_body(self) -> Prelude:
        """The same with a length of zero: a client behind a Function URL would wait for more."""
        kept = tuple(pair for pair in self.headers if pair[0] != "content-length")
        return Prelude(self.status, (*kept, ("content-length", "0")), self.cookies)

    def document(self, payload: Payload) -> dict[str, object]:
        """As Lambda reads it. Repeats are joined, or listed where payload version 1 allows it."""
        joined: dict[str, str] = {}
        many: dict[str, list[str]] = {}
        for name, value in self.headers:
            many.setdefault(name, []).append(value)
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        document: dict[str, object] = {
            "statusCode": self.status,
            "headers": joined,
            "cookies": list(self.cookies),
        }
        repeated = {name: values for name, values in many.items() if len(values) > 1}
        if payload is Payload.REST and repeated:
            document["multiValueHeaders"] = repeated
            document["headers"] = {k: v for k, v in joined.items() if k not in repeated}
        return document


def read_prelude(status: int, headers: list[tuple[bytes, bytes]]) -> Prelude:
    """Check what an application gave. Raises ValueError for what HTTP does not allow."""
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is not the status of a final answer")
    kept: list[tuple[str, str]] = []
    cookies: list[str] = []
    for raw_name, raw_value in headers:
        name, value = bytes(raw_name).decode("ascii").lower(), bytes(raw_value).decode("latin-1")
        if not name or any(c in name for c in "\r\n\0: ") or any(c in value for c in "\r\n\0"):
            raise ValueError(f"header {name!r} holds a character that HTTP does not allow")
        if name == "set-cookie":
            cookies.append(value)
        elif name not in _HOP_BY_HOP:
            kept.append((name, value.strip()))
    if all(name != "content-type" for name, _ in kept):
        kept.append(("content-type", "application/octet-stream"))
    return Prelude(status, tuple(kept), tuple(cookies))


class AnswerSink(Protocol):
    """Where an ASGI cycle sends its answer."""

    @property
    def broken(self) -> bool: ...

    @property
    def congested(self) -> bool: ...

    def check(self, prelude: Prelude) -> None:
        """Raise ValueError for a prelude that cannot be sent."""

    def start(self, prelude: Prelude, first: bytes) -> None:
        """Send status and headers, and the first bytes of the body where there are some."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def end(self, failure: Failure | None) -> None: ...

    async def answered(self) -> Answer | None:
        """Wait until Lambda has taken the whole answer; None if the connection just broke."""

    def close(self) -> None: ...


class StreamedAnswer:
    """An AnswerSink that sends each piece as it comes."""

    def __init__(
        self,
        api: RuntimeAPI,
        invocation: Invocation,
        payload: Payload,
        *,
        on_break: Callable[[str], None],
    ) -> None:
        self._invocation = invocation
        self._payload = payload
        self._stream = AnswerStream(api.address, on_break)
        self.write = self._stream.write
        self.drain = self._stream.drain
        self.end = self._stream.end
        self.answered = self._stream.answered
        self.close = self._stream.close

    @property
    def broken(self) -> bool:
        return self._stream.broken

    @property
    def congested(self) -> bool:
        return self._stream.congested

    def check(self, prelude: Prelude) -> None:
        size = len(self._encoded(prelude)) + len(_DELIMITER)
        if size > MAX_PRELUDE_BYTES:
            raise ValueError(f"the headers take {size} bytes, Lambda {MAX_PRELUDE_BYTES} at most")

    def _encoded(self, prelude: Prelude) -> bytes:
        return json.dumps(prelude.document(self._payload), separators=(",", ":")).encode()

    def start(self, prelude: Prelude, first: bytes) -> None:
        # Two chunks: one emulator does not take JSON and delimiter in one.
        opening = chunk(self._encoded(prelude)) + chunk(_DELIMITER)
        self._stream.open(self._invocation, opening + chunk(first) if first else opening)


class BufferedAnswer:
    """An AnswerSink that posts one JSON document, for callers that cannot read a stream."""

    broken = False
    congested = False

    def __init__(self, api: RuntimeAPI, invocation: Invocation, payload: Payload) -> None:
        self._api = api
        self._invocation = invocation
        self._payload = payload
        self._document: dict[str, object] = {}
        self._body = bytearray()
        self._failure: Failure | None = None

    def check(self, prelude: Prelude) -> None:
        """No limit of its own."""

    def start(self, prelude: Prelude, first: bytes) -> None:
        self._document = prelude.document(self._payload)
        if self._payload is Payload.REST and prelude.cookies:
            # Buffered payload version 1 knows no `cookies`.
            many = dict(self._document.get("multiValueHeaders") or {})  # type: ignore[call-overload]
            self._document["multiValueHeaders"] = many | {"set-cookie": list(prelude.cookies)}
        self._body += first

    def write(self, data: bytes) -> None:
        self._body += data

    async def drain(self) -> None:
        """Memory takes all at once."""

    def end(self, failure: Failure | None) -> None:
        self._failure = failure

    async def answered(self) -> Answer | None:
        if self._failure is not None:
            return await self._api.fail(self._invocation, self._failure)
        try:
            text, is_base64 = self._body.decode(), False
        except UnicodeDecodeError:
            text, is_base64 = binascii.b2a_base64(self._body, newline=False).decode(), True
        document = self._document | {"body": text, "isBase64Encoded": is_base64}
        return await self._api.respond(
            self._invocation, json.dumps(document).encode(), content_type="application/json"
        )

    def close(self) -> None:
        """Nothing is held."""
