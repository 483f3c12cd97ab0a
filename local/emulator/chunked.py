"""Decodes a chunked HTTP/1.1 body (RFC 9112 §7.1) several times faster than a general parser.

h11 reads every head and every other body; a streamed answer is the one place where each frame is
its own chunk, and where h11's ten microseconds a chunk would be most of the emulator's work.
"""

_MAX_LINE_BYTES = 16 * 1024
_TRAILER_LIMIT = 64 * 1024


class BadChunk(ValueError):
    """The peer broke the chunked framing."""


class ChunkedDecoder:
    """Feed it what the socket gave; it returns the payload bytes of all complete pieces."""

    __slots__ = ("_buffer", "_left", "_trailing", "done", "trailers")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # payload bytes still to come of the present chunk, plus its CR LF
        self._trailing = False
        self.done = False
        self.trailers: dict[str, str] = {}

    def feed(self, data: bytes) -> bytes:
        """The payload inside `data`, joined: frames that came together go on together."""
        buffer = self._buffer + data if self._buffer else data
        pieces: list[bytes] = []
        position = 0
        while not self.done:
            if self._left:
                position = self._take(buffer, position, pieces)
                if self._left:
                    break
            line_end = buffer.find(b"\r\n", position)
            if line_end < 0:
                if len(buffer) - position > _MAX_LINE_BYTES:
                    raise BadChunk("chunk line too long")
                break
            line = buffer[position:line_end]
            position = line_end + 2
            if self._trailing:
                self._trailer(line)
            else:
                self._size(line)
        self._buffer = buffer[position:]
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _take(self, buffer: bytes, position: int, pieces: list[bytes]) -> int:
        """Take payload up to the end of the chunk; the CR LF after it counts into `_left`."""
        available = len(buffer) - position
        payload = min(max(self._left - 2, 0), available)
        if payload:
            pieces.append(buffer[position : position + payload])
            self._left -= payload
            available -= payload
            position += payload
        if self._left == 2 and available >= 2:
            if buffer[position : position + 2] != b"\r\n":
                raise BadChunk("chunk does not end where it said")
            self._left = 0
            position += 2
        return position

    def _size(self, line: bytes) -> None:
        digits = line.split(b";", 1)[0].strip()
        if not digits or len(digits) > 16 or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadChunk("chunk size is not a hexadecimal number")
        size = int(digits, 16)
        if size == 0:
            self._trailing = True
        else:
            self._left = size + 2

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadChunk("trailer without a colon")
        self.trailers[name.strip().lower()] = value.strip()
        if sum(len(key) + len(text) for key, text in self.trailers.items()) > _TRAILER_LIMIT:
            raise BadChunk("trailers too large")
