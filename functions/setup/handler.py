"""Creates tables, indexes and the first admin key; safe to invoke any number of times."""

from __future__ import annotations

import asyncio
from typing import Any

from lambent.app import run_setup

_LOOP = asyncio.new_event_loop()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers `{"applied": [...], "admin_key": "lam_..." | null}`; the key only when it is new."""
    del context
    return _LOOP.run_until_complete(run_setup(event))
