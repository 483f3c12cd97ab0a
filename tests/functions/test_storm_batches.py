"""One run of a batch that meets trouble leaves none of the others behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pymongo.errors import AutoReconnect

from lambent.clock import SystemClock
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.registry import Registry
from lambent.engine.tenure import Did
from lambent.intercept import Intercepted, StoreCall
from lambent.mongo import Mongo


class Batch:
    """Two runs; every call of the store about the first one raises `trouble`."""

    def __init__(self, mongo_uri: str, db_name: str, trouble: Exception) -> None:
        clock, config = SystemClock(), EngineConfig()
        self.mongo = Mongo(mongo_uri, db_name, clock=clock)
        self.trouble = trouble
        self.hit: str | None = None
        workflows = Registry()

        @workflows.workflow("slow")
        async def slow(step: Any, input: Any) -> Any:
            await step.do("rest", asyncio.sleep, 0.3)
            return await step.do("done", lambda: "done")

        store = MongoStore(Intercepted(self.mongo, self._gate), clock=clock, config=config)
        self.engine = WorkflowEngine(store, workflows=workflows, config=config)

    async def _gate(self, call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        if self.hit is not None and call.about == self.hit:
            raise self.trouble
        return await make()

    async def started(self) -> list[str]:
        await self.engine.ensure_indexes()
        runs = [(await self.engine.start("slow", client="c")).run["_id"] for _ in range(2)]
        self.hit = runs[0]
        return runs


async def test_a_store_that_fails_one_claim_fails_no_other(
    mongo_uri: str, mongo_db_name: str
) -> None:
    batch = Batch(mongo_uri, mongo_db_name, AutoReconnect("gone"))
    first, second = await batch.started()
    found = await batch.engine.advance([first, second])
    assert (found[first].did, found[second].did) == (Did.LOST, Did.ENDED)
    assert await batch.engine.result(second) == "done"
    await batch.mongo.close()


async def test_an_error_of_one_slice_is_told_when_all_are_over(
    mongo_uri: str, mongo_db_name: str
) -> None:
    batch = Batch(mongo_uri, mongo_db_name, RuntimeError("a bug"))
    first, second = await batch.started()
    found = await batch.engine.advance([first, second])
    assert (found[first].did, found[second].did) == (Did.BROKEN, Did.ENDED)
    assert str(found[first].error) == "a bug"
    assert await batch.engine.result(second) == "done"
    await batch.mongo.close()
