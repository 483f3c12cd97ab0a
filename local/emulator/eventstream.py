"""Encodes AWS's event stream (application/vnd.amazon.eventstream), message by message."""

import struct
import zlib
from collections.abc import Mapping

_STRING = 7


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Prelude with its CRC, headers (all strings), payload, CRC of the whole."""
    fields = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(raw)) + raw
        for name, value in headers.items()
        for raw in (value.encode(),)
    )
    total = 12 + len(fields) + len(payload) + 4
    prelude = struct.pack(">II", total, len(fields))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + fields + payload
    return message + struct.pack(">I", zlib.crc32(message))


def encode_event(kind: str, payload: bytes, *, content_type: str) -> bytes:
    """One event of a streamed answer, for example `PayloadChunk`."""
    headers = {":message-type": "event", ":event-type": kind, ":content-type": content_type}
    return encode_message(headers, payload)
