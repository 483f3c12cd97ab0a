"""What a chat and a step really ask of the stores, against what the cost calculator assumes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import psycopg
import pymongo.monitoring
import pytest

from lambent.admission.migrate import migrate
from lambent.agents.booking import METER_S
from lambent.app import Platform
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.http.chat_app import build_chat_app
from lambent.metrics import Metric
from lambent.settings import load_settings
from local.aws.transform import ROOT, read_template
from local.cost import Counts, Load, bill, table
from local.services import Reply, ScriptedModel

WRITES = {"insert", "update", "delete", "findAndModify"}
READS = {"find", "aggregate", "getMore", "count"}
CHATS = 10
Chat = Callable[[str], Awaitable[float]]
STEPS = 6


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


def test_an_idle_platform_costs_its_alarms_and_little_more() -> None:
    idle = bill(Load())
    assert idle.chat_functions == idle.run_functions == 0
    assert idle.poller < 0.10
    assert idle.aws - idle.watching < 1


def test_twice_the_load_is_twice_the_functions() -> None:
    one, two = bill(Load(chats=1000, runs=500)), bill(Load(chats=2000, runs=1000))
    assert two.chat_functions == pytest.approx(2 * one.chat_functions)
    assert two.run_functions == pytest.approx(2 * one.run_functions)
    assert two.mongo_writes == 2 * one.mongo_writes


def test_the_alarms_and_metrics_that_are_paid_for_are_all_there_are() -> None:
    alarms = [body["Properties"] for body in read_template()["Resources"].values()
              if body["Type"] == "AWS::CloudWatch::Alarm"]  # fmt: skip
    # One that watches several metrics is paid for each.
    paid = [sum("MetricStat" in one for one in alarm.get("Metrics", ())) or 1 for alarm in alarms]
    assert Load().alarms == sum(paid)
    assert Load().custom_metrics == len(Metric)


def test_the_readme_s_example_is_what_the_calculator_says() -> None:
    shown = table(Load(chats=100_000, runs=20_000, steps=6))
    readme = (ROOT / "README.md").read_text()
    for value in ("17.03", "1.28", "4.00", "10.77", "10.30", "21.90"):
        assert f"{value} $" in shown
        assert f"${value}" in readme


def test_the_table_names_the_peers_prices() -> None:
    shown = table(Load(runs=1_000_000, steps=1, waits=0))
    assert "16.00 $" in shown  # two durable operations a run
    assert "50.00 $" in shown  # two transitions a run
