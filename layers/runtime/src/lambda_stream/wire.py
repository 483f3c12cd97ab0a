"""HTTP/1.1 as the Runtime API's client needs it: requests out, answers in, strictly parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

MAX_HEAD_BYTES = 64 * 1024
_MAX_CHUNK_LINE_BYTES = 256

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_UNSAFE_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


class ProtocolError(Exception):
    """The other side's bytes are not HTTP/1.1, or not an answer that was asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; header names are lower case, repeats joined by a comma and a space."""

    status: int
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class _Phase(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    TRAILERS = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()


def request_head(
    method: str, target: str, *, host: str, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The request line and header fields, ready to send. Values are made safe, never trusted."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {field_value(value)}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def field_value(value: str) -> str:
    """`value` with all that may not stand in a header field replaced by a question mark."""
    return _UNSAFE_IN_VALUE.sub("?", value).strip()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. `data` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[tuple[str, str]] = ()) -> bytes:
    """The end of a chunked body with its trailer fields."""
    fields = "".join(f"{name}: {field_value(value)}\r\n" for name, value in trailers)
    return f"0\r\n{fields}\r\n".encode("latin-1")


class AnswerParser:
    """Reads one answer from bytes as they come; interim (1xx) answers are passed over."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._phase = _Phase.HEAD
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._left = 0
        self._line_bytes = 0
        self._keep_alive = True

    @property
    def untouched(self) -> bool:
        """True while not one byte of the answer has come."""
        return self._phase is _Phase.HEAD and not self._buffer and not self._status

    def feed(self, data: bytes) -> Answer | None:
        """Take bytes (empty: the other side closed); return the answer once it is whole.

        Raises ProtocolError for anything that is not an answer.
        """
        if not data:
            return self._closed()
        self._buffer += data
        while self._step():
            pass
        if self._phase is not _Phase.DONE:
            return None
        if self._buffer:
            raise ProtocolError("bytes after the end of the answer")
        return self._answer()

    def _answer(self) -> Answer:
        return Answer(self._status, self._headers, bytes(self._body), self._keep_alive)

    def _closed(self) -> Answer:
        if self._phase is not _Phase.UNTIL_CLOSE:
            raise ProtocolError("the connection was closed before the answer's end")
        return self._answer()

    def _step(self) -> bool:
        """Consume one element; False when more bytes are needed or the answer is whole."""
        match self._phase:
            case _Phase.HEAD:
                return self._read_head()
            case _Phase.LENGTH | _Phase.CHUNK_DATA:
                return self._read_data()
            case _Phase.CHUNK_SIZE:
                return self._read_chunk_size()
            case _Phase.TRAILERS:
                return self._read_trailer()
            case _Phase.UNTIL_CLOSE:
                self._body += self._buffer
                self._buffer.clear()
                return False
            case _Phase.DONE:
                return False

    def _line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\n", 0, limit + 1)
        if end < 0:
            if len(self._buffer) > limit:
                raise ProtocolError("a line is too long")
            return None
        line = bytes(self._buffer[: end + 1])
        if not line.endswith(b"\r\n"):
            raise ProtocolError("a line ends without a carriage return")
        del self._buffer[: end + 1]
        return line[:-2]

    def _read_head(self) -> bool:
        while (line := self._line(MAX_HEAD_BYTES)) is not None:
            self._line_bytes += len(line) + 2
            if self._line_bytes > MAX_HEAD_BYTES:
                raise ProtocolError("the header section is too long")
            if not self._status:
                self._take_status(line)
            elif line:
                self._take_field(line)
            else:
                self._head_complete()
                return True
        return False

    def _take_status(self, line: bytes) -> None:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise ProtocolError(f"not a status line: {line[:80]!r}")
        self._keep_alive = found[1] == b"1"
        self._status = int(found[2])

    def _take_field(self, line: bytes) -> None:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise ProtocolError(f"not a header field: {line[:80]!r}")
        name = found[1].decode("ascii").lower()
        value = found[2].rstrip(b" \t").decode("latin-1")
        if name in self._headers:
            value = f"{self._headers[name]}, {value}"
        self._headers[name] = value

    def _head_complete(self) -> None:
        if self._status < 200:
            if self._status == 101:
                raise ProtocolError("nobody asked to switch protocols")
            self._status, self._headers, self._line_bytes = 0, {}, 0
            return
        options = self._headers.get("connection", "").lower().replace(" ", "").split(",")
        if "close" in options:
            self._keep_alive = False
        elif "keep-alive" in options:
            self._keep_alive = True
        length, coding = self._headers.get("content-length"), self._headers.get("transfer-encoding")
        if length is not None and coding is not None:
            raise ProtocolError("both Content-Length and Transfer-Encoding")
        if self._status in (204, 304):
            self._phase = _Phase.DONE
        elif coding is not None:
            if coding.lower() != "chunked":
                raise ProtocolError(f"unknown transfer coding {coding[:40]!r}")
            self._phase = _Phase.CHUNK_SIZE
        elif length is not None:
            self._left = _content_length(length)
            self._phase = _Phase.LENGTH if self._left else _Phase.DONE
        else:
            self._keep_alive = False
            self._phase = _Phase.UNTIL_CLOSE

    def _read_data(self) -> bool:
        taken = self._buffer[: self._left]
        self._body += taken
        del self._buffer[: len(taken)]
        self._left -= len(taken)
        if self._left:
            return False
        if self._phase is _Phase.LENGTH:
            self._phase = _Phase.DONE
            return False
        return self._read_chunk_end()

    def _read_chunk_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise ProtocolError("a chunk does not end where its size says")
        del self._buffer[:2]
        self._phase = _Phase.CHUNK_SIZE
        return True

    def _read_chunk_size(self) -> bool:
        line = self._line(_MAX_CHUNK_LINE_BYTES)
        if line is None:
            return False
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise ProtocolError(f"not a chunk size: {line[:40]!r}")
        self._left = int(found[1], 16)
        self._phase = _Phase.CHUNK_DATA if self._left else _Phase.TRAILERS
        self._line_bytes = 0
        return True

    def _read_trailer(self) -> bool:
        line = self._line(MAX_HEAD_BYTES)
        if line is None:
            return False
        self._line_bytes += len(line) + 2
        if self._line_bytes > MAX_HEAD_BYTES:
            raise ProtocolError("the trailer section is too long")
        if not line:
            self._phase = _Phase.DONE
            return False
        if _FIELD.fullmatch(line) is None:
            raise ProtocolError(f"not a trailer field: {line[:80]!r}")
        return True


def _content_length(text: str) -> int:
    """The one length that `text` names; equal repeats are allowed (RFC 9110, 8.6)."""
    lengths = {part.strip() for part in text.split(",")}
    if len(lengths) != 1:
        raise ProtocolError("Content-Length fields disagree")
    (length,) = lengths
    if not re.fullmatch("[0-9]{1,15}", length):
        raise ProtocolError(f"not a length: {length[:40]!r}")
    return int(length)
