"""Reads the nested parts of an OpenAI request by hand, with errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any, Final

from lambent.http.openai_errors import BadParam, MissingParam, UnknownParam

_SHOWN: Final = 60


def an_object(value: Any, at: str) -> dict[str, Any]:
    """Raises `BadParam`, or `MissingParam` for null."""
    if isinstance(value, dict):
        return value
    raise _wrong(value, at, "an object")


def a_list(value: Any, at: str, *, most: int) -> list[Any]:
    """At most `most` items."""
    if not isinstance(value, list):
        raise _wrong(value, at, "an array")
    if len(value) > most:
        raise BadParam(f"{at} may have {most} items at most.", param=at)
    return value


def a_text(value: Any, at: str, *, most: int = 2_000_000) -> str:
    """At most `most` characters."""
    if not isinstance(value, str):
        raise _wrong(value, at, "a string")
    if len(value) > most:
        raise BadParam(f"{at} may have {most} characters at most.", param=at)
    return value


def a_name(value: Any, at: str, *, most: int = 64) -> str:
    """A text of a-z, A-Z, 0-9, `_` and `-`, as OpenAI wants names of tools and schemas."""
    text = a_text(value, at, most=most)
    if not text or not all(c.isascii() and (c.isalnum() or c in "_-") for c in text):
        raise BadParam(f"{at} may hold a-z, A-Z, 0-9, _ and - only.", param=at)
    return text


def a_flag(value: Any, at: str) -> bool:
    """True or false; null is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(value, at, "a boolean")


def one_of(value: Any, choices: Container[str], at: str) -> str:
    """One of a closed set of texts."""
    if isinstance(value, str) and value in choices:
        return value
    if value is None:
        raise MissingParam(f"{at} is missing.", param=at)
    raise BadParam(f"{at} has a value that is not known: {shown(value)}.", param=at)


def only(record: Mapping[str, Any], known: Container[str], at: str) -> None:
    """Raises `UnknownParam` for a field that nobody knows, so that no wish is lost silently."""
    for name, value in record.items():
        if name not in known and value is not None:
            param = f"{at}.{name[:_SHOWN]}" if at else name[:_SHOWN]
            raise UnknownParam(f"Unknown parameter: {param!r}.", param=param)


def shown(value: Any) -> str:
    """The value as JSON, cut short."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _wrong(value: Any, at: str, wanted: str) -> BadParam:
    if value is None:
        return MissingParam(f"{at} is missing; it must be {wanted}.", param=at)
    return BadParam(f"{at} must be {wanted}.", param=at)
