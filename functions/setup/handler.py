"""Creates tables, indexes and the first admin key; safe to invoke any number of times."""

from __future__ import annotations

import asyncio
from typing import Any

_LOOP = asyncio.new_event_loop()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers `{"applied": [...], "admin_key": "lam_..." | null}`; the key only when it is new.

    `{"action": "delete", "maker": the stack's id}` deletes all data that this stack made.
    An event of CloudFormation is answered at the address that it names.
    """
    from lambent.deploy import is_from_cloudformation, serve

    if not is_from_cloudformation(event):
        return _LOOP.run_until_complete(_run(event))
    left_s = context.get_remaining_time_in_millis() / 1000 - 30
    return _LOOP.run_until_complete(serve(event, _run, deadline_s=left_s))


async def _run(event: dict[str, Any]) -> dict[str, Any]:
    # Imported late: what cannot be imported or configured must be told to CloudFormation too.
    from lambent.set_up import delete_data, run_setup

    return await (delete_data(event) if event.get("action") == "delete" else run_setup(event))
