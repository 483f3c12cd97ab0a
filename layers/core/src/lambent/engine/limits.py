"""Notices that a deploy has raised a concurrency limit, and wakes whom the new one lets in.

A waiter sleeps until a run of its group ends; nothing else would tell it. So the limit that the
code of each version has is kept, and the function that advances runs says so at its first slice
where it comes with another one. Not the poller, whose cold start knows no workflow: and under its
function's old code a run that was woken too early would only lie down again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from lambent.due import Database
from lambent.engine.config import Nudger
from lambent.engine.flow import Gates
from lambent.engine.registry import Registry, Workflow
from lambent.errors import StoreUnavailable
from lambent.first_aid import explain
from lambent.mongo import Document, guarded
from lambent.telemetry import logger

COLLECTION: Final = "limits"


class Limits:
    """The concurrency limits of the code at hand, against those on record."""

    def __init__(
        self, mongo: Database, *, registry: Registry, gates: Gates, nudger: Nudger
    ) -> None:
        self._mongo = mongo
        self._registry = registry
        self._gates = gates
        self._nudger = nudger
        self._settled: dict[str, int] = {}  # what this environment need not ask for again
        self._looking = False

    async def take_effect(self) -> None:
        """Wake whom a raised limit lets in, then put the limit on record: whoever dies between the
        two leaves that to the next, who wakes them once more."""
        own = {_name(one): one for one in self._registry.all() if one.flow.concurrency}
        limits = {name: _limit(one) for name, one in own.items()}
        if self._looking or limits == self._settled:
            return
        self._looking = True
        try:
            on_record = await self._on_record(own)
            changed = [name for name in own if on_record.get(name) != limits[name]]
            raised = [name for name in changed if on_record.get(name, 0) < limits[name]]
            # A workflow's waiters are of all its versions.
            for workflow in dict.fromkeys(own[name].name for name in raised):
                if woken := await self._gates.let_in(workflow):
                    await self._nudger.nudge(woken)
            for name in changed:
                await self._put_on_record(name, limits[name], on_record.get(name))
        except StoreUnavailable as error:
            logger().warning("Changed limits cannot be seen: %s", explain(error))
            return
        finally:
            self._looking = False
        self._settled = limits

    async def _on_record(self, names: Iterable[str]) -> dict[str, int]:
        found = await guarded(self._limits.find({"_id": {"$in": list(names)}}).to_list())
        return {str(one["_id"]): int(one["limit"]) for one in found}

    async def _put_on_record(self, name: str, limit: int, was: int | None) -> None:
        # From what was seen: in the middle of a deploy the function before may say its own again.
        if was is not None:
            seen: Document = {"_id": name, "limit": was}
            await guarded(self._limits.update_one(seen, {"$set": {"limit": limit}}))
            return
        with suppress(DuplicateKeyError):  # another environment was quicker
            await guarded(self._limits.insert_one({"_id": name, "limit": limit}))

    @property
    def _limits(self) -> AsyncCollection[Document]:
        return self._mongo.db[COLLECTION]


def _name(workflow: Workflow) -> str:
    return f"{workflow.name}@{workflow.version}"


def _limit(workflow: Workflow) -> int:
    assert workflow.flow.concurrency is not None
    return workflow.flow.concurrency.limit
