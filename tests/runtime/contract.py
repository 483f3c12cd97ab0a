"""What a target of the conformance suite does, and in what one may differ from Lambda."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Missing(Exception):
    """The target is not on this machine; the text says what would bring it."""


@dataclass(frozen=True)
class Reply:
    """An answer as its caller saw it; `error` is what Lambda was told went wrong."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: bytes = b""
    error: dict[str, Any] | None = None
    arrivals: int = 1


class Target(Protocol):
    """One function behind one Runtime API."""

    @property
    def output(self) -> str:
        """All that the function wrote so far."""

    def request(self, event: dict[str, Any]) -> Reply:
        """Give an HTTP event, and take status, headers and body apart."""

    def invoke(self, event: Any) -> Reply:
        """Give any other event; the reply's body is JSON."""

    def hang_up(self, event: dict[str, Any]) -> None:
        """Give an HTTP event, read the first of the body, and leave."""

    def stop(self) -> None:
        """End the environment as one is ended that is no longer needed."""

    def close(self) -> None: ...


class Deploy(Protocol):
    """Puts a handler of tests/runtime/functions on a target. May raise `Missing`."""

    def __call__(self, handler: str, *, timeout_s: float = 20.0) -> Target: ...


class Difference(StrEnum):
    """In what a Runtime API or its front may differ from Lambda's."""

    NO_STREAM = "holds the whole body back until the stream's end"
    NO_TRAILERS = "does not pass on an error that comes after the start"
    BUFFERED = "is answered in one JSON document (AWS_SAM_LOCAL)"
    NO_LEAVING = "does not see that its caller has left"
    DROPS_CALLER = "may answer nothing any more once it is told to stop"
    NO_STOP = "cannot be told to end an environment"
    SIX_MEGABYTES = "takes no streamed answer over 6 MB"


def read_invoke(raw: bytes) -> Reply:
    """What an invocation answered that nobody streamed."""
    document = json.loads(raw)
    failed = isinstance(document, dict) and "errorType" in document
    return Reply(body=raw, error=document if failed else None)


def split_stream(raw: bytes) -> Reply:
    """Prelude, delimiter and body as they come out of Lambda unread."""
    head, delimiter, body = raw.partition(bytes(8))
    assert delimiter, f"no delimiter in {raw[:200]!r}"
    prelude = json.loads(head)
    return Reply(prelude["statusCode"], prelude["headers"], prelude["cookies"], body)
