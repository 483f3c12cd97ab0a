"""Reads the header `Idempotency-Key`."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers

from lambent.errors import Unprocessable

KEY_HEADER: Final = "idempotency-key"
_LONGEST: Final = 255


class KeyReused(Unprocessable):
    """The key was sent with another request before; 422 also where OpenAI's rules hold."""

    code = "idempotency_key_reused"


def key_of(headers: Headers) -> str | None:
    """The request's idempotency key; raises `Unprocessable`."""
    key = headers.get(KEY_HEADER)
    return None if key is None else checked_key(key)


def checked_key(key: str) -> str:
    """The key, if it is one; raises `Unprocessable`."""
    if not (1 <= len(key) <= _LONGEST and all("!" <= letter <= "~" for letter in key)):
        raise Unprocessable("Idempotency-Key is 1 to 255 visible ASCII characters.")
    return key
