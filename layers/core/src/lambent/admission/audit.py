"""Keeps the record of what admins did: who, when, what, to what, and how it ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from lambent.admission.decisions import Principal
from lambent.admission.statements import statement
from lambent.clock import EPOCH, FAR_FUTURE, Clock
from lambent.errors import StoreUnavailable, Unprocessable
from lambent.ids import new_ulid, ulid_floor
from lambent.postgres import Postgres
from lambent.telemetry import log_fields, logger

_CURSOR: Final = re.compile(r"[0-9A-Z]{26}", re.ASCII)
_LONGEST: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What somebody is about to do. `via`: api or page; `address`: where the request came from."""

    principal: Principal
    action: str
    target: str
    via: str
    address: str
    request_id: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action. `outcome` is the HTTP status, None where the request died before its end."""

    id: str
    at: datetime
    key_id: str | None
    key_name: str | None
    client: str
    action: str
    target: str
    via: str
    address: str
    request_id: str
    outcome: int | None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Newest first; `cursor` asks for the next page, None on the last."""

    entries: tuple[AuditEntry, ...]
    cursor: str | None


class Audit:
    """The record in Postgres. It is only ever added to."""

    def __init__(self, postgres: Postgres, *, clock: Clock) -> None:
        self._postgres = postgres
        self._clock = clock

    async def begin(self, action: Action) -> str:
        """Write down what is about to happen; the id is for `end`.

        Before the action: what cannot be recorded must not be done. Raises `StoreUnavailable`.
        """
        entry_id = new_ulid(self._clock)
        who = action.principal
        values = {
            "id": entry_id,
            "key_id": who.key_id,
            "key_name": who.key_name,
            "client": who.client,
            "action": _kept(action.action),
            "target": _kept(action.target),
            "via": action.via,
            "address": _kept(action.address),
            "request_id": _kept(action.request_id),
        }
        await self._postgres.fetch(statement("audit_begin"), values)
        return entry_id

    async def end(
        self, entry_id: str, outcome: int, *, action: str | None = None, target: str | None = None
    ) -> None:
        """Write down how it ended, and what only its handler knew of it.

        Does not raise where Postgres is gone: the action is done, and its beginning is on record.
        """
        values = {
            "id": entry_id,
            "outcome": outcome,
            "action": None if action is None else _kept(action),
            "target": None if target is None else _kept(target),
        }
        try:
            await self._postgres.fetch(statement("audit_end"), values)
        except StoreUnavailable:
            logger().warning("An audit entry stays open", **log_fields(entry=entry_id))

    async def find(
        self,
        *,
        key_id: str | None = None,
        action: str | None = None,
        target: str | None = None,
        from_at: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """A page of entries begun at or after `from_at` and before `until`.

        Raises `Unprocessable` for a cursor that is none of ours.
        """
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise Unprocessable("Not valid: cursor.")
        # Ids are in the order of time, so a span of time is a range of them.
        before = [one for one in (cursor, ulid_floor(until or FAR_FUTURE)) if one is not None]
        values = {"key_id": key_id, "action": action, "target": target}
        values |= {"first": ulid_floor(from_at or EPOCH), "before": min(before)}
        if any("\0" in (value or "") for value in values.values()):
            return AuditPage((), None)  # no text of Postgres holds it
        rows = await self._postgres.fetch(statement("audit_list"), {**values, "limit": limit + 1})
        entries = tuple(_entry(row) for row in rows[:limit])
        return AuditPage(entries, entries[-1].id if len(rows) > limit else None)


def _kept(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_LONGEST]


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(**{**row._asdict(), "at": row.at.astimezone(UTC)})
