"""Carries whose work it is from function to function: in due documents, not in nudges.

A nudge may be lost, and holds many runs; the document that waits says where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lambent.telemetry import correlated, trail

Trace = Mapping[str, str]


def carried() -> dict[str, str]:
    """What a due document keeps of the work that made it."""
    request_id = trail().get("request_id")
    return {"request_id": request_id} if request_id else {}


@contextmanager
def resumed(trace: Trace | None, **ids: str) -> Iterator[None]:
    """Go on, wherever this is, with the work that a due document came from."""
    request_id = (trace or {}).get("request_id")
    with correlated(request_id=request_id, **ids):
        yield
