"""The poller function: started each minute, or by a nudge, to find what is due."""

from typing import Any

from lambda_stream import on_shutdown
from lambent.app import poll_due, stop_poller


async def handler(event: dict[str, Any], context: Any) -> dict[str, str]:
    """Any event → why the poller ended."""
    del event  # a tick and a nudge ask for the same
    return {"left": await poll_due(left_s=context.get_remaining_time_in_millis() / 1000)}


on_shutdown(stop_poller)
