"""One invocation, from what is noted of it to what is sent before it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lambent import metrics, tracing


@asynccontextmanager
async def reporting() -> AsyncIterator[None]:
    """What is recorded inside is written and sent at the end, however it ends."""
    try:
        yield
    finally:
        metrics.flush()
        await tracing.export()
