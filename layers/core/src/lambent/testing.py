"""Runs workflows inside a test: virtual time, events, scripted models, crashes, the journal.

    async with WorkflowTest(mongo_uri, workflows=registry) as test:
        run_id = await test.start("order", {"n": 1})
        await test.send("paid", {"amount": 5})
        assert await test.finish(run_id) == "shipped"

It stands on the real engine over a real store, so what passes here behaves so in production; only
the time is not real: a sleep of 30 days is over as soon as nothing else is to be done.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from pymongo.errors import DuplicateKeyError

from lambent.bus.cloudevents import CloudEvent, check
from lambent.clock import EPOCH, FAR_FUTURE, Clock, SystemClock
from lambent.codec import encode, plain
from lambent.due import new_due_fields
from lambent.engine.config import EngineConfig, Generated, Listener
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.model import RUNS
from lambent.engine.registry import Registry, registry
from lambent.engine.views import RunView, StepView
from lambent.errors import WorkflowError
from lambent.ids import new_ulid
from lambent.intercept import Gate, Intercepted, StoreCall
from lambent.leases import NoKeeper
from lambent.mongo import Document, Mongo, guarded
from lambent.waits import EVENTS, Waits

CLIENT: Final = "test"
_ROUNDS: Final = 10_000


class VirtualClock:
    """Time that stands still until it is moved. `sleep` is real: it only bounds real waiting."""

    def __init__(self, at: datetime | None = None) -> None:
        self._now = at or SystemClock().now()
        self._system = SystemClock()
        self._moved_s = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._moved_s

    async def sleep(self, seconds: float) -> None:
        await self._system.sleep(seconds)

    def move_s(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._now += timedelta(seconds=seconds)
        self._moved_s += seconds

    def move_to(self, at: datetime) -> None:
        """Let time pass until then; never goes back."""
        self.move_s(max(0.0, (at - self._now).total_seconds()))


class Crash(BaseException):
    """The slice is dead: no more code of it runs, and nothing is given back."""


@dataclass(frozen=True, slots=True)
class CrashAt:
    """Where to crash: at the `nth` call that `matches`, before it is sent or after it was done
    (so that its acknowledgement is lost)."""

    matches: Callable[[StoreCall], bool]
    nth: int = 1
    after: bool = False
    about: str = ""


class ScriptedAnswers:
    """A model that says what the test wrote down; an exception among the answers is raised."""

    def __init__(self) -> None:
        self._answers: list[Any] = []
        self.requests: list[Mapping[str, Any]] = []

    def say(self, *answers: Any) -> None:
        """Queue answers: a text, what `step.generate` is to give, `Generated`, or an exception to
        raise."""
        self._answers.extend({"text": one} if isinstance(one, str) else one for one in answers)

    async def generate(
        self, request: Mapping[str, Any], *, client: str, listener: Listener | None = None
    ) -> Generated:
        del client
        self.requests.append(request)
        before = await listener.begin() if listener is not None else ""
        if not self._answers:
            raise WorkflowError("The test has no more answers for the model.")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        made = answer if isinstance(answer, Generated) else Generated(answer, tokens=1)
        if listener is not None:
            said = dict(made.value)
            listener.tell(said["text"], "")
            await listener.end()
            made = Generated({**said, "text": before + said["text"]}, made.tokens)
        return made


class TestBus:
    """Publishes into the store and delivers to waits and triggers as the bus does."""

    __test__ = False  # for pytest: no test class

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self.published: list[Document] = []
        self.engine: WorkflowEngine | None = None

    async def ensure_indexes(self) -> None:
        unique = [("client", 1), ("source", 1), ("id", 1)]
        await guarded(self._store.mongo.db[EVENTS].create_index(unique, unique=True))

    async def publish(
        self,
        *,
        client: str,
        id: str,
        source: str,
        type: str,
        subject: str | None,
        data: Any,
        time: str | None = None,
    ) -> None:
        now = self._store.clock.now()
        if not isinstance(data, bytes):
            data = plain(encode(data).form)
        made = CloudEvent(id=id, source=source, type=type, subject=subject, time=time, data=data)
        event: Document = {
            "_id": new_ulid(self._store.clock),
            "client": client,
            **asdict(check(made)),
            "received_at": now,
            "status": "pending",
            **new_due_fields(now),
        }
        try:
            await guarded(self._store.mongo.db[EVENTS].insert_one(event))
        except DuplicateKeyError:
            return
        self.published.append(event)
        await self.deliver(event)

    async def deliver(self, event: Document) -> None:
        """What DESIGN §5 asks of a delivery, but for the webhooks."""
        await deliver(self._store.waits, event, self._store.due.wake)
        if self.engine is not None:
            await self.engine.start_for_event(event)
        done = {"status": "delivered", "due_at": FAR_FUTURE}
        events = self._store.mongo.db[EVENTS]
        await guarded(events.update_one({"_id": event["_id"]}, {"$set": done}))


async def deliver(waits: Waits, event: Document, wake: Callable[[str], Awaitable[bool]]) -> None:
    """Satisfy the open waits, then wake every run that had one or holds the event already."""
    runs: set[str] = set()
    after = None
    while True:
        page = await waits.satisfy(event, after=after)
        runs |= page.runs | page.holders
        after = page.after
        if after is None:
            break
    for run_id in sorted(runs):
        await wake(run_id)


class WorkflowTest:
    """An engine for one test, on a database of its own, dropped at the end."""

    __test__ = False

    def __init__(
        self,
        mongo_uri: str,
        *,
        workflows: Registry = registry,
        config: EngineConfig | None = None,
        db_name: str | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.model = ScriptedAnswers()
        self._mongo = Mongo(mongo_uri, db_name or f"test_{secrets.token_hex(6)}", clock=_REAL)
        self.gate: Gate | None = None  # set it to stand between engine and store
        self.in_slice = False
        self._crashes: list[CrashAt] = []
        self._seen: list[int] = []
        # No warm waits: whatever has to wait settles, and the test moves the time.
        config = replace(config or EngineConfig(), warm_s=0.0)
        gated = Intercepted(self._mongo, self._gate)
        self.store = MongoStore(gated, clock=self.clock, config=config, keeper=NoKeeper())
        self.bus = TestBus(self.store)
        self.engine = WorkflowEngine(
            self.store, workflows=workflows, config=config, model=self.model, events=self.bus
        )
        self.bus.engine = self.engine

    async def __aenter__(self) -> Self:
        await self.engine.ensure_indexes()
        await self.bus.ensure_indexes()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._mongo.db.client.drop_database(self._mongo.db.name)
        await self._mongo.close()
        left = [
            f"{one.about} (call {one.nth}, {seen} seen)"
            for one, seen in zip(self._crashes, self._seen, strict=True)
            if seen < one.nth
        ]
        if left and kind is None:
            raise AssertionError(f"crash_at never struck: {', '.join(left)}")

    async def start(
        self, workflow: str, input: Any = None, *, key: str | None = None, **options: Any
    ) -> str:
        """Start a run for the client `test`; its id."""
        started = await self.engine.start(workflow, input, client=CLIENT, key=key, **options)
        return str(started.run["_id"])

    async def send(
        self,
        type: str,
        data: Any = None,
        *,
        subject: str | None = None,
        id: str | None = None,
        time: str | None = None,
    ) -> None:
        """Publish an event as an outsider would; `time` in RFC 3339, as he may leave it out.

        Raises `Unprocessable` and `TooLarge` as the bus does.
        """
        await self.bus.publish(
            client=CLIENT,
            id=id or secrets.token_hex(8),
            source="test",
            type=type,
            subject=subject,
            data=data,
            time=time,
        )

    def crash_at(
        self, call: str | Callable[[StoreCall], bool], *, nth: int = 1, after: bool = False
    ) -> None:
        """Kill the slice at a store call: by a piece of its name ("steps.insert_one(", a step's
        key) or a predicate. A crash that never strikes fails the test at its end."""
        matches = call if callable(call) else lambda made: call in str(made)
        self._crashes.append(CrashAt(matches, nth, after, about=str(call)))
        self._seen.append(0)

    async def settle(self) -> None:
        """Advance everything that is due now, until nothing is."""
        await self._settled()

    async def _settled(self) -> datetime:
        """Advance what is due until nothing is; when something will be, FAR_FUTURE for never."""
        for _ in range(_ROUNDS):
            due, next_at = await self._look()
            if not due:
                return next_at
            for run_id in due:
                await self.advance([run_id])
        raise WorkflowError("The runs go on and on without time passing.")

    async def _look(self) -> tuple[list[str], datetime]:
        # What `DueDocuments` asks in several questions, each for an index, in one for few runs.
        now = self.clock.now()
        timed = {"$gte": EPOCH, "$lt": FAR_FUTURE}
        query = {"priority": {"$in": list(RUNS.levels)}, "due_at": timed}
        shown = ("due_at", "lease_until", "priority")
        found = await guarded(self._mongo.db[RUNS.collection].find(query, shown).to_list())
        found.sort(key=lambda run: (run["priority"], run["due_at"]))
        ready = {run["_id"]: max(run["due_at"], run["lease_until"]) for run in found}
        later = [at for at in ready.values() if at > now]
        return [one for one, at in ready.items() if at <= now], min(later, default=FAR_FUTURE)

    async def advance(self, run_ids: Sequence[str]) -> bool:
        """One slice of these runs; False: it was killed by a crash."""
        self.in_slice = True
        try:
            verdicts = await self.engine.advance(run_ids)
        except Crash:
            return False
        finally:
            self.in_slice = False
        for verdict in verdicts.values():
            if verdict.error is not None:
                raise verdict.error
        return True

    async def pass_time(self, duration: timedelta | float) -> None:
        """Let time pass, with every timer on the way going off in its turn."""
        span = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        end = self.clock.now() + span
        while (next_at := await self._settled()) <= end:
            self.clock.move_to(next_at)
        self.clock.move_to(end)

    async def finish(self, run_id: str, *, within: timedelta = timedelta(days=3660)) -> Any:
        """The run's output, with as much time passing as it takes.

        Raises `WorkflowError` if it ends otherwise or waits for what will not come.
        """
        end = self.clock.now() + within
        while True:
            next_at = await self._settled()
            run = await self.run(run_id)
            if run.status == "completed":
                return await self.engine.result(run_id)
            if next_at > end or run.status in {"failed", "cancelled", "paused", "blocked"}:
                raise WorkflowError(
                    f"The run is {run.status}: {run.error or run.blocked or run.waits}",
                    fields={"status": run.status, "error": run.error, "blocked": run.blocked},
                )
            self.clock.move_to(next_at)

    async def run(self, run_id: str) -> RunView:
        return await self.engine.control.get(run_id, client=CLIENT)

    async def journal(self, run_id: str) -> list[StepView]:
        """Everything on record of the run."""
        return await self.engine.control.steps(run_id, client=CLIENT)

    async def document(self, run_id: str) -> Document:
        """The run document itself, for a look under the bonnet."""
        found = await self._mongo.db[RUNS.collection].find_one({"_id": run_id})
        return found or {"_id": run_id, "due_at": EPOCH}

    async def _gate(self, call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        if self.gate is not None:
            return await self.gate(call, make)
        if not self.in_slice:
            return await make()  # the test's own look at things
        crash = self._crash_here(call)
        if crash is None:
            return await make()
        if crash.after:
            await make()
        raise Crash(str(call))

    def _crash_here(self, call: StoreCall) -> CrashAt | None:
        found = None
        for index, crash in enumerate(self._crashes):
            if crash.matches(call):
                self._seen[index] += 1
                found = crash if self._seen[index] == crash.nth else found
        return found


_REAL: Final[Clock] = SystemClock()
