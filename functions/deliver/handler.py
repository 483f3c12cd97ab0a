"""The deliver function: events to runs, workflows and webhooks; webhook calls; schedule ticks."""

from typing import Any

from lambent.app import deliver_due


async def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """`{"events" | "webhooks" | "schedules": [id, ...]}` → how many of each were worked on."""
    work = {kind: [str(one) for one in ids] for kind, ids in event.items() if isinstance(ids, list)}
    return await deliver_due(work, left_s=context.get_remaining_time_in_millis() / 1000)
