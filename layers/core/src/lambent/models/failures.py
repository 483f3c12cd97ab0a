"""Sorts what can go wrong at a model server by what it means to the caller and the breaker.

| what happened | error | to the breaker |
|---|---|---|
| no connection, a limit passed, 5xx, a broken or senseless stream | `ModelUnavailable` | failure |
| 404 that names the model | `UnknownModel` | the host answered |
| a text beyond the model's window | `PromptTooLong` | the host answered |
| other 4xx, 501, an error about the request itself | `ModelRefused` | the host answered |
| 401, 403: our own credentials | `Unavailable` | the host answered |
| its queue is full (503 with its reason, 429), or its memory | `ModelBusy` | no verdict |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import httpx

from lambent.errors import (
    LambentError,
    ModelBusy,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    PromptTooLong,
    Unavailable,
    UnknownModel,
)
from lambent.telemetry import redact

_DETAIL_CHARACTERS = 300
# Ollama finds these out after it has begun its answer, and tells them like faults of its own. Were
# they failures, one client with a bad schema could close a host to all others.
_ABOUT_REQUEST: Final = (
    "invalid json schema in format",
    "invalid format:",
    "failed to parse grammar",
    "failed to create new sequence",  # an image that is none, a prompt that holds nothing
)
# Where a request was sent not to be cut ("truncate": false).
_ABOUT_LENGTH: Final = "context length"
# By the model that was asked for, or by its `num_ctx`: another host may have more.
_ABOUT_MEMORY: Final = "requires more system memory"


def tidy(text: str) -> str:
    """A model server's own words, fit for a client: one line, bounded, without secrets."""
    return redact(" ".join(text.split()))[:_DETAIL_CHARACTERS]


def transport_failure(error: httpx.HTTPError | httpx.InvalidURL | TimeoutError) -> LambentError:
    """What an exception of the HTTP client means."""
    match error:
        case httpx.ConnectTimeout():
            return ModelTimeout("The model server could not be reached in time.")
        case httpx.TimeoutException() | TimeoutError():
            return ModelTimeout("The model server took too long.")
        case httpx.ConnectError():
            return ModelUnavailable("The model server cannot be reached.")
        case _:
            return ModelUnavailable("The connection to the model server broke.")


def status_failure(status: int, headers: Mapping[str, str], body: bytes) -> LambentError:
    """What an answer other than 200 means."""
    said = _reason(body)
    match status:
        case 401 | 403:
            return Unavailable(
                "The model server does not accept this platform's credentials.", retry_after_s=30
            )
        case 404 if "model" in said:
            return UnknownModel(tidy(said))
        case 429:
            return ModelBusy(retry_after_s=_retry_after_s(headers))
        # What it will never do, such as vectors from a model that makes none.
        case 501:
            return ModelRefused(tidy(said) or "The model server does not know how to do that.")
        # A 503 without Ollama's reason comes from something in front of a host that is down.
        case 503 if said:
            return ModelBusy(retry_after_s=_retry_after_s(headers))
        case _ if status >= 500:
            return told_failure(said or f"status {status}")
        case _ if _ABOUT_LENGTH in said.lower():
            return _too_long(said)
        case _:
            return ModelRefused(tidy(said) or f"The model server answered with status {status}.")


def told_failure(said: str) -> LambentError:
    """What an error means that a server tells in its stream, or with a 5xx."""
    known = said.lower()
    if _ABOUT_LENGTH in known:
        return _too_long(said)
    if any(words in known for words in _ABOUT_REQUEST):
        return ModelRefused(f"The model server refused the request: {tidy(said)}")
    if _ABOUT_MEMORY in known:
        return ModelBusy(f"The model server has no room for this: {tidy(said)}", retry_after_s=10)
    return ModelUnavailable(f"The model server failed: {tidy(said)}")


def _too_long(said: str) -> LambentError:
    return PromptTooLong(f"This is more than the model can read at once: {tidy(said)}")


def _reason(body: bytes) -> str:
    with suppress(ValueError, RecursionError):
        record = json.loads(body)
        if isinstance(record, dict) and record.get("error"):
            return str(record["error"])
    return ""


def _retry_after_s(headers: Mapping[str, str]) -> float:
    with suppress(ValueError):
        return min(max(float(headers.get("retry-after", "1")), 1.0), 3600.0)
    return 1.0
