"""The storm: runs that wait for events while the processes that advance them are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from tests.functions.stack import Stack
from tests.functions.storm.callers import Caller
from tests.functions.storm.findings import RUNNING, Findings, examine, read_traces

# Beside a step process each second, in so many seconds of all one of these.
_OTHERS = ("deliver", "deliver", "poller", "gateway")
_OTHERS_PART = 0.4
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How bad it gets. `outage_at_s` None: MongoDB stays up."""

    runs: int
    kills_s: float
    outage_at_s: float | None = None
    outage_s: float = 20.0
    patience_s: float = 300.0
    lasts_s: float = 0.06
    seed: int = field(default_factory=lambda: random.randrange(1_000_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the storm did, and what was found when it was over."""

    seed: int
    killed: Counter[str]
    requests: Counter[str]
    quiet_after_s: float
    findings: Findings

    def __str__(self) -> str:
        parts = [
            f"seed {self.seed}",
            f"killed {dict(self.killed)}",
            f"requests {dict(self.requests)}",
            f"quiet after {self.quiet_after_s:.0f} s",
            str(self.findings),
        ]
        return "; ".join(parts)


class Storm:
    """One storm over one platform."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._caller = Caller(stack.url, stack.new_key(scopes=["runs", "events"]))
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            stack.ready["mongo_uri"], tz_aware=True, timeoutMS=5000
        )
        self._db: AsyncDatabase[dict[str, Any]] = self._client["lambent"]
        self._traces: Path = stack.data.parent / f"{stack.data.name}.traces"
        self._seen: dict[str, Any] = {}
        self._killed: Counter[str] = Counter()
        self._run_ids: dict[str, str] = {}

    async def rage(self) -> Toll:
        """From the first run to the last look, until all is quiet or patience is at its end."""
        began_s = time.monotonic()
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(
                self._kill(), self._stop_mongo(), *(self._attend(n) for n in range(self._plan.runs))
            )
            await self._until_quiet(began_s + self._plan.patience_s)
            took_s = time.monotonic() - began_s
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        findings = await examine(self._db, self._run_ids, self._traces, seen=self._seen)
        await self._caller.close()
        await self._client.close()
        return Toll(
            seed=self._plan.seed,
            killed=self._killed,
            requests=self._caller.counts,
            quiet_after_s=took_s,
            findings=findings,
        )

    async def _attend(self, number: int) -> None:
        """Start one run and publish its events, in one of four orders relative to its waits."""
        rng, plan = random.Random(f"{self._plan.seed}/{number}"), self._plan
        subject = f"s{number}"
        whole = {
            "subject": subject,
            "traces": str(self._traces),
            "lasts_s": plan.lasts_s,
            "sleep_s": rng.choice([0.1, 1.0, 2.5, 4.0]),
            "leaf": number % 5 == 0,
        }
        await asyncio.sleep(rng.uniform(0, plan.kills_s / 3))
        self._run_ids[subject] = await self._caller.start("storm", subject, whole)
        events = [("storm.first", "first"), ("storm.pair", "one"), ("storm.pair", "two")]
        events.append(("storm.late", "late"))
        order = number % 4
        if order == 0:  # each only when the run waits for it
            for type, name in events:
                await self._until_waiting(subject, name)
                await self._publish(subject, type, name)
            return
        if order == 1:  # all at once, right after the start
            pauses = [0.0] * len(events)
        elif order == 2:  # any time until the end of the killing
            pauses = [rng.uniform(0, plan.kills_s * 0.6) for _ in events]
        else:  # the last first
            pauses = [rng.uniform(0, 2.0) * (3 - place) for place in range(len(events))]
        publishing = [
            self._after(pause_s, self._publish(subject, type, name))
            for pause_s, (type, name) in zip(pauses, events, strict=True)
        ]
        await asyncio.gather(*publishing)

    async def _after(self, pause_s: float, call: Awaitable[None]) -> None:
        await asyncio.sleep(pause_s)
        await call

    async def _publish(self, subject: str, type: str, name: str) -> None:
        data = {"subject": subject, "name": name}
        await self._caller.publish(f"{subject}/{name}", type, subject, data)

    async def _until_waiting(self, subject: str, name: str) -> None:
        wait_id = f"{self._run_ids[subject]}/0/{name}"

        async def opened() -> bool:
            return await self._db["waits"].find_one({"_id": wait_id}) is not None

        await self._until(opened, time.monotonic() + self._plan.patience_s)

    async def _kill(self) -> None:
        """From the first effect on: a step process each second, and often something else too."""
        await self._until(self._has_begun, time.monotonic() + self._plan.patience_s)
        end_s = time.monotonic() + self._plan.kills_s
        while time.monotonic() < end_s:
            await asyncio.sleep(1.0)
            # Those that have worked: on a busy machine most of the others are still starting.
            working = {line["pid"] for line in read_traces(self._traces)}
            pids = self._stack.pids()["functions"]
            self._kill_one("step", working.intersection(pids["step"]))
            if self._random.random() < _OTHERS_PART:
                other = self._random.choice(_OTHERS)
                self._kill_one(other, pids[other])

    def _kill_one(self, function: str, pids: Collection[int]) -> None:
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(sorted(pids)), signal.SIGKILL)
                self._killed[function] += 1

    async def _has_begun(self) -> bool:
        return self._traces.exists()

    async def _stop_mongo(self) -> None:
        """SIGKILL, and nobody starts it again for a while."""
        plan = self._plan
        if plan.outage_at_s is None:
            return
        await asyncio.sleep(plan.outage_at_s)
        hold = self._stack.data / "hold-mongo"
        hold.touch()
        os.kill(self._stack.pids()["mongo"], signal.SIGKILL)
        self._killed["mongo"] += 1
        await asyncio.sleep(plan.outage_s)
        hold.unlink()

    async def _watch(self) -> None:
        """Remember each final checkpoint as it was first seen."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            with contextlib.suppress(PyMongoError):
                final = {"status": {"$in": ["completed", "failed"]}}
                async for step in self._db["steps"].find(final):
                    self._seen.setdefault(step["_id"], step)

    async def _until_quiet(self, until_s: float) -> None:
        async def quiet() -> bool:
            runs, events = self._db["runs"], self._db["events"]
            unended = await runs.count_documents({"status": {"$in": RUNNING}})
            owing = await runs.count_documents({"owes": {"$ne": []}})
            pending = await events.count_documents({"status": "pending"})
            # The run that a last delivery started may only just be there.
            return unended + owing + pending == 0

        await self._until(quiet, until_s)

    async def _until(self, check: Callable[[], Awaitable[bool]], until_s: float) -> None:
        while time.monotonic() < until_s:
            with contextlib.suppress(PyMongoError):
                if await check():
                    return
            await asyncio.sleep(0.2)
