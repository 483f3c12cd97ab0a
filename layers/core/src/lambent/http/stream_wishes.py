"""What a request's headers ask for the stream that answers it."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers

from lambent.chat.values import StreamWish
from lambent.errors import Unprocessable

LEASE_HEADER: Final = "x-stream-lease"
_LONGEST_LEASE_S: Final = 900


def wish_of(headers: Headers) -> StreamWish:
    """Raises `Unprocessable`."""
    text = headers.get(LEASE_HEADER)
    if text is None:
        return StreamWish()
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _LONGEST_LEASE_S):
        raise Unprocessable(f"X-Stream-Lease is seconds, from 1 to {_LONGEST_LEASE_S}.")
    return StreamWish(lease_s=int(text), lasting=True)
