"""Sets a deployment up, or its data away: tables, indexes, the first admin key."""

from __future__ import annotations

from typing import Any, Final

from lambent.app import Platform, platform
from lambent.errors import ConfigError
from lambent.first_aid import plainly
from lambent.telemetry import logger

_INDEXES_S: Final = 200.0

# Drivers are imported inside: where one cannot be, that is told in a line like all the rest.


@plainly
async def run_setup(event: dict[str, Any]) -> dict[str, Any]:
    """Create or update tables and indexes, and the first admin key. Safe to run twice or at once.

    Answers `{"applied": [names of SQL files], "admin_key": text or None}`: the key's text only
    where this call made it, or was given it as `admin_secret` (which replaces one that is there,
    unless `replaces_admin_key` is false). With `makes_admin_key` false none is made, and
    `has_admin_key` says whether there is one, `maker` who made the tables. A `maker` is noted as
    that, if this call did. `reserved_steps`: what is reserved for the step function, if it is.
    """
    from lambent import wipe
    from lambent.admission.migrate import FIRST, migrate

    parts = platform()
    _check_reserved(event.get("reserved_steps", 0), needed=parts.settings.step_concurrency)
    applied = await migrate(parts.postgres)
    if FIRST in applied and (maker := event.get("maker")):
        await wipe.note_maker(parts.postgres, maker)
    await _ensure_indexes(parts)
    if event.get("makes_admin_key") is False:
        has_key, maker = await parts.keys.has_admin(), await wipe.maker_of(parts.postgres)
        return {"applied": applied, "has_admin_key": has_key, "maker": maker}
    replaces = event.get("replaces_admin_key") is not False
    admin = await parts.keys.ensure_admin(secret=event.get("admin_secret"), replaces=replaces)
    logger().info("Setup is done", extra={"applied": applied, "admin_key_made": bool(admin.text)})
    return {"applied": applied, "admin_key": admin.text}


@plainly
async def delete_data(event: dict[str, Any]) -> dict[str, Any]:
    """Delete everything that the stack `maker` made: `{"deleted": whether it was its own}`."""
    from lambent import wipe

    parts = platform()
    deleted = await wipe.delete_data(parts.postgres, parts.mongo, maker=str(event.get("maker")))
    logger().warning("All data was deleted" if deleted else "The data is another's, and was kept")
    return {"deleted": deleted}


def _check_reserved(reserved: int, *, needed: int) -> None:
    """CloudFormation's rules compare no numbers, so it is said here, before anything is changed."""
    if 0 < reserved < needed:
        raise ConfigError(
            [f"StepReservedConcurrency is {reserved}, but the poller keeps {needed} step functions "
             "busy (StepConcurrency), and Lambda would refuse the rest"]
        )  # fmt: skip


async def _ensure_indexes(parts: Platform) -> None:
    import pymongo

    from lambent.bus.events import ensure_event_indexes
    from lambent.bus.webhooks import ensure_webhook_indexes

    # A new index of a full collection takes longer than any other call may.
    with pymongo.timeout(_INDEXES_S):
        await parts.engine.ensure_indexes()
        await ensure_event_indexes(parts.mongo, clock=parts.clock)
        await ensure_webhook_indexes(parts.mongo, clock=parts.clock)
        await parts.schedules.ensure_indexes()
        await parts.chats.streams.ensure_indexes()
        await parts.chats.keys.ensure_indexes()
        await parts.chats.conversations.ensure_indexes()
