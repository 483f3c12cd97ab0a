"""What a chat and a step really ask of the stores, against what the cost calculator assumes."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pymongo.monitoring
import pytest

from lambent.admission.migrate import migrate
from lambent.agents.booking import METER_S
from lambent.app import Platform
from lambent.clock import FAR_FUTURE
from lambent.dispatch import Work
from lambent.due import DueDocuments, new_due_fields
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.model import RUNS
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.http.chat_app import build_chat_app
from lambent.poller.poller import Left, Poller
from lambent.poller.sources import all_sources
from lambent.settings import load_settings
from local.cost import Counts
from local.services import Reply, ScriptedModel
from tests.functions.stack import Stack, running_stack
from tests.store.bus_world import TurnedClock

WRITES = {"insert", "update", "delete", "findAndModify"}
READS = {"find", "aggregate", "getMore", "count"}
CHATS = 10
Chat = Callable[[str], Awaitable[float]]
STEPS = 6
TOKENS = 400
LOGGED = ("chat", "gateway", "step")


class Commands(pymongo.monitoring.CommandListener):
    """Counts what is sent to MongoDB while it is on."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.on = False

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        if self.on:
            self.seen[event.command_name] += 1

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None: ...

    def count(self, names: set[str]) -> int:
        return sum(self.seen[name] for name in names)


@pytest.fixture
def commands() -> Iterator[Commands]:
    listeners = pymongo.monitoring._LISTENERS
    before = list(listeners.command_listeners)
    listener = Commands()
    pymongo.monitoring.register(listener)
    yield listener
    listeners.command_listeners[:] = before


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What psycopg is told to send to Postgres, in order."""
    sent: list[str] = []
    execute = psycopg.AsyncConnection.execute

    async def told(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(query if isinstance(query, str) else query.decode())
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", told)
    return sent


@pytest.fixture
async def parts(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> AsyncIterator[Platform]:
    settings = {
        "POSTGRES_DSN": postgres_dsn,
        "MONGO_URI": mongo_uri,
        "MONGO_DB_NAME": mongo_db_name,
        "OLLAMA_HOST": scripted_model.host,
    }
    parts = Platform(load_settings(settings))
    await migrate(parts.postgres)
    yield parts
    await parts.mongo.close()
    await parts.postgres.close()
    await parts.models.close()


@pytest.fixture
async def chat(parts: Platform) -> AsyncIterator[Chat]:
    """Sends a chat as a client would and gives the seconds that it took."""
    admin = (await parts.keys.ensure_admin()).text
    headers = {"Authorization": f"Bearer {admin}"}
    transport = httpx.ASGITransport(app=build_chat_app(parts.chats))
    async with httpx.AsyncClient(transport=transport, base_url="http://chat") as client:

        async def ask(path: str) -> float:
            began_s = time.monotonic()
            body = {"agent": "chat", "input": "Hi"}
            answer = await client.post(path, json=body, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
            return time.monotonic() - began_s

        yield ask


async def test_a_chat_asks_postgres_three_times(
    chat: Chat, statements: list[str], scripted_model: ScriptedModel
) -> None:
    """Counted where they are sent: the server's own counter has its vacuum's transactions, too."""
    scripted_model.default = Reply.many(4, delay_s=0.1)
    at_once = 0
    for _ in range(CHATS):
        statements.clear()
        took_s = await chat("/chat")
        assert statements[0].startswith("SELECT lambent.decide(")
        assert statements[1].startswith("SELECT lambent.judge(")  # the first token
        assert statements[-1].startswith("SELECT lambent.judge(")  # the end, with what was used
        if took_s < METER_S:
            assert len(statements) == Counts().chat_postgres_calls, statements
            at_once += 1
    assert at_once > 0


async def test_a_long_stream_is_booked_and_kept_meanwhile(
    chat: Chat, statements: list[str], commands: Commands, scripted_model: ScriptedModel
) -> None:
    """What goes by time is bounded by it, from above and, for it must happen at all, from below."""
    scripted_model.default = Reply.many(40, delay_s=0.1)
    commands.on = True
    took_s = await chat("/chat/stream")
    commands.on = False
    count = Counts()
    booked = len([one for one in statements if one.startswith("SELECT lambent.book_usage(")])
    assert len(statements) - booked == count.chat_postgres_calls, statements
    writes, reads = commands.count(WRITES), commands.count(READS)
    print(f"{took_s:.2f} s: {booked} bookings, {writes} writes, {reads} reads of MongoDB")
    for seen, base, a_second in (
        (booked, 0.0, count.chat_second_postgres_calls),
        (writes, count.chat_mongo_writes, count.chat_second_mongo_writes),
        (reads, 0.0, count.chat_second_mongo_reads),
    ):
        assert 2 <= seen <= base + a_second * took_s, (seen, took_s)


async def test_a_step_costs_one_write(parts: Platform, commands: Commands) -> None:
    registry = Registry()

    @registry.workflow("counted")
    async def counted(step: Step, input: Any) -> int:
        for number in range(input):
            await step.do(f"step {number}", str, number)
        return int(input)

    config = EngineConfig()
    keeper = parts.engine.store.keeper
    store = MongoStore(parts.mongo, clock=parts.clock, config=config, keeper=keeper)
    engine = WorkflowEngine(store, workflows=registry, config=config)
    await engine.ensure_indexes()

    async def cost_of(steps: int) -> tuple[int, int]:
        commands.seen.clear()
        commands.on = True
        started = await engine.start("counted", steps, client="c", key=f"{steps}")
        ends_s = parts.clock.monotonic_s() + 900  # as Lambda gives the step function
        await engine.advance([started.run["_id"]], ends_s=ends_s)
        commands.on = False
        seen = await engine.control.get(started.run["_id"], client="c")
        assert seen.status == "completed", seen
        return commands.count(WRITES), commands.count(READS)

    bare_writes, bare_reads = await cost_of(1)
    writes, reads = await cost_of(1 + STEPS)
    print(f"a run: {bare_writes - 1} writes and {bare_reads} reads")
    print(f"a step: {(writes - bare_writes) / STEPS:g} writes")
    assert (writes - bare_writes) / STEPS == Counts().step_mongo_writes
    assert reads == bare_reads
    assert bare_writes - 1 == Counts().run_mongo_writes
    assert bare_reads == Counts().run_mongo_reads


async def test_a_poller_stays_and_reads_as_is_counted(parts: Platform, commands: Commands) -> None:
    """A tick finds that something is due in half a minute, and stays until that is taken."""
    await parts.engine.ensure_indexes()
    clock = TurnedClock()
    due = DueDocuments(parts.mongo, RUNS, clock=clock)
    sources = all_sources(parts.mongo, parts.settings, clock=clock, nudges=Taken(due))
    poller, began_s = Poller(parts.mongo, sources, clock=clock), clock.monotonic_s()
    commands.on = True
    assert await poller.watch(deadline_s=began_s + 75) is Left.IDLE
    assert commands.count(READS) == Counts().tick_mongo_reads
    at = clock.now() + timedelta(seconds=30)
    await due.collection.insert_one({"_id": "a", "priority": 0, **new_due_fields(at)})
    commands.seen.clear()
    assert await poller.watch(deadline_s=began_s + 75) is Left.IDLE
    commands.on = False
    awake_s, reads = clock.monotonic_s() - began_s, commands.count(READS)
    print(f"{awake_s:.1f} s awake: {reads} reads, {reads / awake_s:.1f} a second")
    assert 30 <= awake_s <= 30 + Counts().awake_after_s
    most = Counts().awake_second_mongo_reads
    assert most / 2 <= reads / awake_s <= most


class Taken:
    """Takes each run at its nudge, and ends it: the poller's other half, without its functions."""

    def __init__(self, due: DueDocuments) -> None:
        self._due = due

    async def nudge(self, work: Work, ids: Iterable[str], *, news: bool = False) -> int:
        for one in ids:
            claimed = await self._due.claim(one)
            assert claimed is not None
            await self._due.settle(claimed.lease, due_at=FAR_FUTURE, seen_signals=None)
        return 1


def test_chats_and_runs_are_invoked_and_logged_as_is_counted(
    tmp_path: Path, scripted_model: ScriptedModel
) -> None:
    """By the log of a whole platform, with Lambda's own lines in it."""
    scripted_model.default = Reply.many(TOKENS)
    with running_stack(tmp_path / "data", {"OLLAMA_HOST": scripted_model.host}) as stack:
        before = {name: invocations(stack, name) for name in LOGGED}
        with stack.client() as client:
            sizes = [len(ask(client).content) for _ in range(CHATS)]
            looks = sum(run_to_its_end(client) for _ in range(CHATS))
    seen = {name: invocations(stack, name) - before[name] for name in LOGGED}
    written = sum((stack.data / f"logs/{name}.log").stat().st_size for name in LOGGED)
    print(f"{seen}, {written} bytes, {looks} looks, {sizes[0]} bytes an answer")
    count = Counts()
    assert seen["chat"] == CHATS * count.chat_invocations
    # A tick that comes between a run's insert and its claim asks for it once more.
    ticks = invocations(stack, "poller")
    asked = seen["gateway"] - looks + seen["step"]
    assert CHATS * count.run_invocations <= asked <= CHATS * count.run_invocations + ticks
    total = sum(invocations(stack, name) for name in LOGGED)
    assert count.log_bytes / 3 <= written / total <= count.log_bytes
    assert count.token_bytes / 2 <= sizes[0] / TOKENS <= count.token_bytes


def invocations(stack: Stack, function: str) -> int:
    path = stack.data / f"logs/{function}.log"
    return path.read_text().count("| REPORT RequestId") if path.exists() else 0


def ask(client: httpx.Client) -> httpx.Response:
    answer = client.post("/chat/stream", json={"agent": "chat", "input": "Hi"})
    assert answer.text.rstrip().endswith("[DONE]"), answer.text
    return answer


def run_to_its_end(client: httpx.Client) -> int:
    """A run without waits; how often it was looked at."""
    asked = {"workflow": "news.digest", "input": {"feeds": ["http://127.0.0.1:9/feed"]}}
    started = client.post("/runs", json=asked)
    assert started.status_code == 202, started.text
    for looks in itertools.count(1):
        if client.get(f"/runs/{started.json()['id']}").json()["finished_at"]:
            return looks
        time.sleep(0.2)
    raise AssertionError("never comes")
