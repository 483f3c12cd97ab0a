"""What a request's headers ask for the stream that answers it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starlette.datastructures import Headers

from lambent.chat.idempotency import KEPT
from lambent.chat.values import StreamWish
from lambent.errors import Unprocessable
from lambent.http.key_header import key_of

LEASE_HEADER: Final = "x-stream-lease"
_LONGEST_LEASE_S: Final = 900


def wish_of(headers: Headers) -> StreamWish:
    """Raises `Unprocessable`.

    Who sends a key comes back where the connection is lost: the stream lasts, and is kept as
    long as the key.
    """
    keyed = StreamWish(lasting=True, kept_after=KEPT) if key_of(headers) else StreamWish()
    text = headers.get(LEASE_HEADER)
    if text is None:
        return keyed
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
    if not 1 <= seconds <= _LONGEST_LEASE_S:
        raise Unprocessable(f"X-Stream-Lease is seconds, from 1 to {_LONGEST_LEASE_S}.")
    return replace(keyed, lease_s=seconds, lasting=True)
