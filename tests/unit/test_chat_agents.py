"""Agents that misbehave inside a chat: the caller gets an error, the slot comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent.agents.agent import Agent, Chunk, agent
from lambent.agents.turn import Turn
from lambent.errors import LambentError, Unprocessable
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import ChatSite, chat_site, frames, said


@agent("raises", description="Raises at once.")
class RaisesAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        raise ValueError("lam_01ABCDEF_secret of the author")
        yield Chunk()


@agent("late", description="Raises after some words.")
class LateAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        yield Chunk(delta="so far ")
        raise ValueError("no further")


@agent("asks", description="Raises one of the platform's errors.")
class AsksAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        raise Unprocessable("Name a city.")
        yield Chunk()


@agent("silent", description="Yields nothing.")
class SilentAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        for _ in ():
            yield Chunk()


@agent("wrong", description="Yields what is no chunk.")
class WrongAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Any]:
        yield {"delta": "x"}


@agent("broken", description="Cannot be made.")
class BrokenAgent(Agent):
    def __init__(self) -> None:
        raise RuntimeError("no such file")

    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        yield Chunk()


@agent("cancels", description="Has its own task cancelled.")
class CancelsAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        task = asyncio.create_task(asyncio.sleep(9))
        task.cancel()
        await task
        yield Chunk()


@agent("forgets", description="Leaves generations open.")
class ForgetsAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        for _ in range(2):
            yield await anext(turn.generate_stream())


@agent("many", description="Generates twice at once.")
class ManyAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        replies = await asyncio.gather(turn.generate(system="a"), turn.generate(system="b"))
        yield Chunk(delta=" / ".join(reply.text for reply in replies))


@agent("copes", description="Goes on without the model.")
class CopesAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        try:
            await turn.generate()
        except LambentError as error:
            yield Chunk(delta=f"without: {error.code}")


@agent("stubborn", description="Swallows its cancellation.")
class StubbornAgent(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        while True:
            try:
                async for chunk in turn.generate_stream():
                    yield chunk
            except asyncio.CancelledError:
                await asyncio.sleep(0)


AGENTS = [
    RaisesAgent, LateAgent, AsksAgent, SilentAgent, WrongAgent, BrokenAgent, CancelsAgent,
    ForgetsAgent, ManyAgent, CopesAgent, StubbornAgent,
]  # fmt: skip


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host, agents=AGENTS) as site:
        yield site


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("raises", 500, "agent_failed"),
        ("silent", 500, "agent_failed"),
        ("wrong", 500, "agent_failed"),
        ("broken", 500, "agent_failed"),
        ("asks", 422, "unprocessable"),
        ("cancels", 503, "unavailable"),
    ],
)
async def test_an_agent_that_fails_is_a_problem_without_its_inner_words(
    site: ChatSite, path: str, name: str, status: int, code: str
) -> None:
    async with site.client() as client:
        answer = await client.post(path, json={"agent": name, "input": "x"})
    assert answer.status_code == status
    assert answer.json()["type"] == f"urn:lambent:problem:{code}"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    await site.until_no_slot_is_taken()


async def test_an_agent_that_fails_late_ends_its_stream_with_an_error(site: ChatSite) -> None:
    async with site.client() as client:
        text = (await client.post("/chat/stream", json={"agent": "late", "input": "x"})).text
    assert said(text) == "so far "
    assert frames(text)[-1]["type"] == "urn:lambent:problem:agent_failed"
    assert "no further" not in text


@pytest.mark.parametrize(
    ("path", "name", "metric"),
    [("/chat", "raises", "ChatRequestsFailed"), ("/chat/stream", "late", "StreamsBroken")],
)
async def test_what_fails_is_counted_so_that_a_rollout_goes_back(
    site: ChatSite, capsys: pytest.CaptureFixture[str], path: str, name: str, metric: str
) -> None:
    async with site.client() as client:
        await client.post(path, json={"agent": name, "input": "x"})
    told = ""
    async with asyncio.timeout(30):  # the line follows the answer
        while f'"{metric}":' not in told:
            told += capsys.readouterr().out
            await asyncio.sleep(0.01)


async def test_generations_that_an_agent_forgot_are_closed(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(5000, delay_s=0.01)
    async with site.client() as client:
        text = (await client.post("/chat/stream", json={"agent": "forgets", "input": "x"})).text
    assert said(text) == "word word "
    await scripted_model.until(
        lambda: [r.hung_up for r in scripted_model.generations] == [True] * 2
    )
    await site.until_no_slot_is_taken()


async def test_one_slot_means_one_generation_at_a_time_and_usage_is_their_sum(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(
        Reply.text("first one", delay_s=0.05, prompt_tokens=3),
        Reply.text("second", prompt_tokens=4),
    )
    async with site.client() as client:
        answer = (await client.post("/chat", json={"agent": "many", "input": "x"})).json()
    assert answer["output"] == "first one / second"
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 3
    first, second = scripted_model.generations
    assert first.ended
    assert second.received_at_s - first.received_at_s > 0.09


async def test_an_agent_may_go_on_after_a_failure_of_the_model_which_still_counts(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.failure(500, "killed"))
    async with site.client() as client:
        answer = (await client.post("/chat", json={"agent": "copes", "input": "x"})).json()
    assert answer["output"] == "without: model_unavailable"
    await site.until_no_slot_is_taken()
    (breaker,) = (await site.gate.state()).breakers
    assert breaker.failures == 1


async def test_an_agent_that_will_not_stop_loses_its_model_and_its_slot(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(5000, delay_s=0.01)
    body = {"agent": "stubborn", "input": "x"}
    async with site.client() as client, client.stream("POST", "/chat/stream", json=body) as got:
        await anext(got.aiter_lines())
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
    await site.until_no_slot_is_taken()
