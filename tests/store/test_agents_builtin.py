"""The tools that come along: memory by client, pages within the rules, structured answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from lambent.admission.decisions import Scope
from lambent.admission.migrate import migrate
from lambent.agents.agent import Agent, Chunk, agent
from lambent.agents.builtin_tools import fetch_page, page_text, publish_event
from lambent.agents.memory import Memory
from lambent.agents.tool_calls import run_tool
from lambent.agents.tool_context import Caller, Means, ToolContext
from lambent.agents.turn import Turn
from lambent.agents.web import Document
from lambent.clock import SystemClock
from lambent.engine.config import EngineConfig
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.models.values import ToolCall
from lambent.mongo import Mongo
from lambent.postgres import Postgres
from lambent.settings import Settings
from lambent.testing import WorkflowTest
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.engine_world import World
from tests.unit.chat_site import chat_site
from tests.unit.test_agents_web import listed, pages


@pytest.mark.parametrize("vectors", [None, False])
async def test_memory_is_a_clients_own_with_and_without_pgvector(
    postgres_dsn: str, vectors: bool | None
) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    await migrate(postgres)
    memory = Memory(postgres, vectors=vectors)
    for n, (client, text, vector) in enumerate(
        [("ann", "up", (0.0, 1.0)), ("ann", "right", (1.0, 0.0)), ("bob", "hers", (1.0, 0.1))]
    ):
        for _ in range(2):  # a repetition changes nothing
            await memory.keep(client, text, id=str(n), model="m", embedding=vector)
    found = await memory.recall("ann", model="m", embedding=(1.0, 0.1), limit=5)
    assert [one.content for one in found] == ["right", "up"]
    assert found[0].likeness > 0.99
    assert await memory.recall("ann", model="other", embedding=(1.0, 0.1), limit=5) == []
    assert await memory.recall("ann", model="m", embedding=(1.0, 0.1, 0.0), limit=5) == []
    if vectors is None:
        assert memory._vectors, "the embedded Postgres brings pgvector"
    await postgres.close()


def context(*hosts: str) -> ToolContext:
    settings = Settings(mongo_uri="mongodb://h", postgres_dsn="postgresql://h", fetch_hosts=hosts)
    caller = Caller(client="ann", scopes=frozenset({"chat"}))
    return ToolContext(
        turn="T", call="0.0", caller=caller, means=Means(settings=settings, clock=SystemClock())
    )


async def fetched(url: str, *hosts: str) -> Any:
    call = ToolCall("fetch_page", {"url": url})
    return await run_tool({"fetch_page": fetch_page}, call, context(*hosts))


async def test_a_page_is_read_as_text() -> None:
    html = b"<head><title>x</title></head><p>One &amp; two</p><script>no()</script><p>three</p>"
    async with pages(lambda _: (200, {"content-type": "text/html"}, html)) as url:
        ended = await fetched(f"{url}/page", listed(url))
    assert (ended.content, ended.failed) == ("One & two\nthree", False)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://[::1]/", "file:///x"],
)
async def test_a_page_within_the_network_is_refused(url: str) -> None:
    host = url.split("/")[2]
    ended = await fetched(url, host)
    assert ended.failed, ended


async def test_a_redirect_is_checked_again() -> None:
    away = {"location": "http://169.254.169.254/latest"}
    async with pages(lambda _: (302, away, b"")) as url:
        ended = await fetched(url, listed(url))
    assert ended.failed
    assert "not allowed" in ended.content


async def test_a_page_comes_from_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the second answer of the name server leads inside, and is never asked for."""
    answers = [[(2, 1, 6, "", (address, 80))] for address in ("93.184.216.34", "127.0.0.1")]
    loop, asked, reached = asyncio.get_running_loop(), [], []
    connect = loop.create_connection

    async def resolve(host: Any, port: int, **options: Any) -> Any:
        asked.append(host.decode() if isinstance(host, bytes) else host)
        return answers[len(asked) - 1]

    async def route(protocol: Any, host: str, port: int, **options: Any) -> Any:
        """The open internet, which is one site here."""
        reached.append((host, port))
        return await connect(protocol, "127.0.0.1", int(url.rpartition(":")[2]), **options)

    async with pages(lambda _: (200, {"content-type": "text/plain"}, b"outside")) as url:
        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        monkeypatch.setattr(loop, "create_connection", route)
        ended = await fetched("http://rebind.example.org/page", "*.example.org")
    assert (ended.content, ended.failed) == ("outside", False)
    assert asked == ["rebind.example.org"]
    assert reached == [("93.184.216.34", 80)]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(Exception, match="not text"):
        page_text(Document("u", "image/png", b"\x89PNG"))


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize(
    ("type", "said"),
    [("report.ready", "It is published."), ("lambent.callback", "are the platform's own")],
)
async def test_a_model_publishes_events_but_none_of_the_platforms_own(
    mongo_uri: str, mongo_db_name: str, type: str, said: str
) -> None:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    bus = World(mongo, Registry(), config=EngineConfig()).bus
    plain = context()
    caller = Caller(client="ann", scopes=frozenset({Scope.EVENTS}))
    means = replace(plain.means, bus=lambda: bus)
    call = ToolCall("publish_event", {"type": type, "data": {"n": 1}})
    ended = await run_tool(
        {"publish_event": publish_event}, call, replace(plain, caller=caller, means=means)
    )
    assert said in ended.content
    kept = [one["type"] for one in await mongo.db["events"].find({"client": "ann"}).to_list()]
    assert kept == ([] if ended.failed else [type])
    assert ended.failed is (type != "report.ready")
    await mongo.close()


@agent("cities", description="Tells of cities.")
class CityAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        city = await turn.generate(City)
        yield Chunk(delta=f"{city.name} has {city.people}")


GOOD, BAD = Reply.text('{"name": "Oslo", "people": 7}'), Reply.text('{"name": "Oslo"}')


@pytest.mark.parametrize(
    ("replies", "status"), [([GOOD], 200), ([BAD, GOOD], 200), ([BAD] * 2, 502)]
)
async def test_a_structured_answer_is_mended_once(
    postgres_dsn: str, scripted_model: ScriptedModel, replies: list[Reply], status: int
) -> None:
    scripted_model.script(*replies)
    async with (
        chat_site(postgres_dsn, scripted_model.host, agents=[CityAgent]) as site,
        site.client() as client,
    ):
        answer = await client.post("/chat", json={"agent": "cities", "input": "Oslo?"})
    assert answer.status_code == status
    assert len(scripted_model.generations) == len(replies)
    assert scripted_model.generations[0].json["format"]["required"] == ["name", "people"]
    if status == 200:
        assert answer.json()["output"] == "Oslo has 7"
    if len(replies) == 2:
        assert (
            "people: Field required"
            in scripted_model.generations[1].json["messages"][-1]["content"]
        )


async def test_a_step_gives_a_structured_answer_too(mongo_uri: str) -> None:
    workflows = Registry()

    @workflows.workflow("city")
    async def city(step: Step, input: Any) -> int:
        found = await step.generate("ask", prompt="Oslo?", wanted=City)
        return int(found.people)

    async with WorkflowTest(mongo_uri, workflows=workflows) as test:
        test.model.say({"text": "{}"}, {"text": '{"name": "Oslo", "people": 7}'})
        assert await test.finish(await test.start("city")) == 7


@pytest.mark.parametrize(
    "html",
    [
        "<!doctype html><html><head><title>T</title><body><p>Hello",
        "<!doctype html><html><head><title>T</title><p>Hello",
        "<!doctype html><head><meta charset=utf-8><title>T</title>Hello",
        "<!doctype html><title>T</title><p>Hello",
        "<html><head><title>T</title><script>no()</script></head><body>Hello",
        "<html><head><title>T</title><svg><body>Hello",
        "<html><body><svg><path d=x><title>T</title><p>Hello",
        "<html><body><svg><title>T</title></svg>Hello",
        "<html><body><svg/>Hello",
        "<html><body><template>Hello",
        "<html><body><noscript>Hello",
        "<html><head><noscript><img></noscript><title>T</title></head>Hello",
        "<html><body><template><p>no</p></template><noscript><p>no</p></noscript>Hello",
    ],
)
def test_a_page_is_read_whatever_tags_it_leaves_out(html: str) -> None:
    assert page_text(Document("u", "text/html", html.encode())) == "Hello"
