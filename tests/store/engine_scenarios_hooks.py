"""Scenarios of webhook deliveries: two who send, one who replays, and a real receiver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lambent.bus.transitions import DELIVERIES
from lambent.clock import EPOCH, FAR_FUTURE
from lambent.dispatch import Work
from lambent.engine.registry import Registry
from lambent.errors import Conflict
from tests.store.engine_explorer import Act
from tests.store.engine_scenario import Scenario
from tests.store.engine_world import World

_BUSY, _TAKEN, _GONE = (503, 204, 410)


class Receiver:
    """An HTTP server on a port of its own; gives these answers, the last one for ever."""

    def __init__(self, answers: Sequence[int]) -> None:
        self._answers = list(answers)
        self.calls: list[str] = []
        self._server: asyncio.Server

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        named = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(named["content-length"]))
        answer = self._answers[min(len(self.calls), len(self._answers) - 1)]
        self.calls.append(named["webhook-id"])
        writer.write(f"HTTP/1.1 {answer} So\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


def _nothing(workflows: Registry, world: Callable[[], World]) -> None:
    """No workflow: only the bus is at work."""


async def _hook(world: World, *answers: int) -> str:
    """The delivery that is queued for a webhook with this receiver."""
    receiver = world.told["receiver"] = Receiver(answers)
    world.closing.push_async_callback(receiver.close)
    await world.webhooks.create(world.client, url=await receiver.open(), types=["e"])
    await world.publish("e", 1)
    (found,) = await _deliveries(world)
    world.told["accepted"] = 0
    world.fleet.polls = (Work.WEBHOOKS,)
    return str(found["_id"])


async def _deliveries(world: World) -> list[dict[str, Any]]:
    found = world.mongo.db[DELIVERIES.collection].find({"client": world.client})
    return await found.to_list()


def _replayer(world: World, delivery: str) -> Act:
    """Somebody who wants it sent again, if it is not being tried."""

    async def replay() -> None:
        with contextlib.suppress(Conflict):
            await world.webhooks.replay(delivery, client=world.client)
            world.told["accepted"] += 1

    return replay


async def _setup(world: World, *, answers: Sequence[int]) -> dict[str, Act]:
    delivery = await _hook(world, *answers)
    return {
        "sender": lambda: world.fleet.send([delivery]),
        "another": lambda: world.fleet.send([delivery]),
        "replayer": _replayer(world, delivery),
    }


async def _replayed_setup(world: World, *, answers: Sequence[int]) -> dict[str, Act]:
    """It is over already, and two want it again while one sends."""
    delivery = await _hook(world, *answers)
    await world.fleet.send([delivery])
    return {
        "replayer": _replayer(world, delivery),
        "sender": lambda: world.fleet.send([delivery]),
        "again": _replayer(world, delivery),
    }


async def _check(world: World, *, status: str, attempts: int) -> None:
    (found,) = await _deliveries(world)
    about = {name: found[name] for name in ("_id", "status", "due_at", "lease", "reason")}
    assert (found["lease"], found["lease_until"]) == (None, EPOCH), f"left leased: {about}"
    assert (found["status"], found["due_at"]) == (status, FAR_FUTURE), f"not over: {about}"
    assert found["expire_at"] is not None, f"it stays for ever: {about}"
    calls = world.told["receiver"].calls
    assert set(calls) == {found["_id"].lower()}, f"sent under another name: {calls}"
    settled, replayed = world.deliveries["settled"], world.deliveries["replayed"]
    assert settled == 1 + replayed, f"settled {settled} times, replayed {replayed} times"
    assert world.told["accepted"] <= replayed, "who was told yes has replayed nothing"
    # Whoever is gone is not asked again, though somebody has it sent again.
    wanted = attempts + (replayed if status == "delivered" else 0)
    assert len(calls) >= wanted, f"sent {len(calls)} times, not {wanted}"
    assert world.faulty or len(calls) == wanted, "sent twice though nobody died"


async def _hooked_check(world: World) -> None:
    await _check(world, status="delivered", attempts=2)


async def _gone_check(world: World) -> None:
    await _check(world, status="dead", attempts=1)


async def _twice_check(world: World) -> None:
    await _check(world, status="delivered", attempts=1)


_flaky = partial(_setup, answers=(_BUSY, _TAKEN))
_gone = partial(_setup, answers=(_GONE,))
_twice = partial(_replayed_setup, answers=(_TAKEN,))


HOOKS = (
    Scenario("hooked", _nothing, _flaky, _hooked_check, weight=0.5),
    Scenario("gone", _nothing, _gone, _gone_check, weight=0.5),
    Scenario("replayed", _nothing, _twice, _twice_check, weight=0.5),
)
