"""Reads a JSON body: bounded, strict, and with an error that says where it is wrong."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from pydantic_core import from_json
from starlette.requests import Request

from lambent.errors import RequestError, TooLarge, UnsupportedMedia

# What a Function URL takes at most (6 MB); it answers 413 beyond by itself.
MAX_BODY_BYTES: Final = 6 * 1024 * 1024
# How a number has to be written to be beyond a double: only then is it looked for.
_VAST: Final = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{309}")


async def read_json(request: Request) -> Any:
    """The body's value.

    Raises `TooLarge`, `UnsupportedMedia`, or `RequestError` with line and column.
    """
    _check_type(request.headers.get("content-type", ""))
    return parse_json(await read_body(request))


async def read_body(request: Request, *, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The whole body; stops reading as soon as it passes the limit, announced or not."""
    too_large = TooLarge(f"The body may have {limit_bytes} bytes at most.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit_bytes:
        raise too_large
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit_bytes:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def parse_json(body: bytes, *, what: str = "The body") -> Any:
    """Strict JSON in UTF-8: no NaN, no unpaired surrogates, no bottomless nesting.

    Raises `RequestError` that names it as `what`.
    """
    if not body:
        raise RequestError(f"{what} is empty; a JSON object is expected.")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is no UTF-8: byte {error.start} does not fit.") from None
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"{what} is no JSON: {error}.") from None
    if _VAST.search(body) and not is_finite(value):
        raise RequestError(f"{what} has a number that is too large for a double.")
    return value


def finite(value: Any) -> Any:
    """The value; raises ValueError where it holds a number that JSON has no word for."""
    if not is_finite(value):
        raise ValueError("a number in it is NaN, infinite or too large for a double")
    return value


def is_finite(value: Any) -> bool:
    """Whether no number in it, at any depth, is infinite: JSON has no word for that."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(is_finite(one) for one in value.values())
        case list():
            return all(is_finite(one) for one in value)
        case _:
            return True


def _check_type(content_type: str) -> None:
    media_type, _, parameters = content_type.lower().partition(";")
    media_type = media_type.strip()
    # A body that does not say what it is can only be JSON here.
    if media_type and media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMedia(f"Send application/json, not {media_type[:100]}.")
    charset = parameters.partition("charset=")[2].strip(' "')
    if charset and charset not in {"utf-8", "utf8"}:
        raise UnsupportedMedia("JSON is UTF-8; another charset is not understood.")
