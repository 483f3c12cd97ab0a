"""Five hundred mixed turns over processes that are killed: booked is what the model server told."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from lambent.admission.decisions import AdmissionConfig, Scope
from lambent.admission.gate import Gate
from lambent.admission.keys import KeyStore
from lambent.admission.migrate import migrate
from lambent.admission.reports import GroupBy, UsageFilter, UsageReports, UsageRow
from lambent.agents.step_model import StepModel
from lambent.clock import SystemClock
from lambent.models.manager import ModelManager
from lambent.postgres import Postgres
from lambent.settings import Settings
from local.services import Reply, ScriptedModel
from local.services.process import free_port
from local.services.script import Fault
from local.services.scripted import Recorded

TURNS = 500
KILLS = 3
KILLED_AT_ONCE = 6
KINDS = ("whole", "stream", "openai", "agentless", "embed", "step", "stop", "broken", "refused")
BROKEN = (Fault.ERROR_LINE, Fault.MALFORMED, Fault.END_EARLY)


def reply_to(record: Recorded) -> Reply:
    """What the message asks for: "<kind> <n>"."""
    kind, n = record.json["messages"][-1]["content"].split()
    reply = Reply.many(int(n), prompt_tokens=int(n) + 3)
    match kind:
        case "stop" | "killed":
            return reply.but(fault=Fault.HANG, thinking=("hm",))
        case "broken":
            return reply.but(fault=BROKEN[int(n) % 3])
        case "refused":
            return Reply.failure(400, "no")
        case "step":
            return reply.but(tool_calls=({"function": {"name": "f", "arguments": {}}},))
        case _:
            return reply.but(thinking=("hm",) * (int(n) % 2))


@dataclass(frozen=True)
class Fleet:
    dsn: str
    model: ScriptedModel
    key: str
    postgres: Postgres
    steps: StepModel

    @asynccontextmanager
    async def function(self) -> AsyncIterator[tuple[httpx.AsyncClient, subprocess.Popen[bytes]]]:
        """A chat function's process; whoever leaves this kills it."""
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "--factory", "lambent.app:chat_app"]
        command += ["--port", str(port), "--log-level", "error"]
        environ = {
            "MONGO_URI": "mongodb://127.0.0.1:1", "POSTGRES_DSN": self.dsn,
            "OLLAMA_HOST": self.model.host, "OLLAMA_MAX_INFLIGHT": "64",
            "BREAKER_FAILURES": "1000", "RATE_LIMIT_MAX_REQUESTS": "1000000", "LOG_LEVEL": "ERROR",
        }  # fmt: skip
        process = await asyncio.to_thread(subprocess.Popen[bytes], command, env=environ)
        sent = {"authorization": f"Bearer {self.key}"}
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, headers=sent, timeout=60) as client:
            try:
                await until_up(client)
                yield client, process
            finally:
                process.kill()
                process.wait()

    async def rows(self, **wanted: Any) -> tuple[UsageRow, ...]:
        reports = UsageReports(self.postgres)
        return await reports.rows(UsageFilter(**wanted), by=[GroupBy.MODEL])

    async def until_booked(self, expected: dict[str, tuple[int, ...]]) -> None:
        """Wait for it; a booking follows its answer."""
        found: dict[str, tuple[int, ...]] = {}
        for _ in range(600):
            rows = await self.rows()
            found = {
                str(row.model): (
                    row.requests, row.broken, row.prompt_tokens, row.completion_tokens,
                )
                for row in rows
            }  # fmt: skip
            if found == expected:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{found} is booked, not {expected}")


async def until_up(client: httpx.AsyncClient) -> None:
    for _ in range(1200):
        try:
            await client.get("/health")
        except httpx.TransportError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("the function does not come up")


@asynccontextmanager
async def fleet(dsn: str, model: ScriptedModel) -> AsyncIterator[Fleet]:
    clock = SystemClock()
    postgres = Postgres(dsn, clock=clock, timeout_s=20)
    await migrate(postgres)
    key = await KeyStore(postgres, clock=clock).create("acme", "test", scopes=[Scope.CHAT])
    settings = Settings(mongo_uri="mongodb://h", postgres_dsn=dsn, ollama_host=model.host)
    config = AdmissionConfig(max_inflight=64, breaker_failures=1000)
    gate, models = Gate(postgres, clock=clock, config=config), ModelManager(settings, clock=clock)
    model.default = reply_to
    yield Fleet(dsn, model, key.text, postgres, StepModel(models, gate, default_model="step:1"))
    await models.close()
    await postgres.close()


async def one_turn(fleet: Fleet, client: httpx.AsyncClient, kind: str, n: int) -> None:
    said = [{"role": "user", "content": f"{kind} {n}"}]
    body: dict[str, Any] = {"messages": said, "model": f"{kind}:1"}
    match kind:
        case "step":
            await fleet.steps.generate({"messages": said, "agent": "workflow:w"}, client="acme")
        case "embed":
            body = {"model": "embed:1", "input": ["text"] * n}
            assert (await client.post("/v1/embeddings", json=body)).status_code == 200
        case "openai" | "agentless":
            body["stream"] = kind == "openai"
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        case "whole":
            assert (await client.post("/chat", json=body)).status_code == 200
        case "stop":
            await leave_after(client, body, n)
        case _:
            await client.post("/chat/stream", json=body)


async def leave_after(client: httpx.AsyncClient, body: dict[str, Any], n: int) -> None:
    """Read all that comes before the silence, then go."""
    async with client.stream("POST", "/chat/stream", json=body) as answer:
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith('data: {"delta"')
            if seen == n:
                return


def told_by(model: ScriptedModel) -> dict[str, tuple[int, ...]]:
    """By model: calls answered, those broken off, and the tokens that the server reported."""
    told: dict[str, list[int]] = {}
    for record in model.requests:
        if record.path == "/api/embed":
            seen = (1, 0, len(record.json["input"]), 0)
        elif record.path == "/api/chat" and record.frames_sent:
            reply = reply_to(record)
            whole = reply.fault is None
            counted = reply.timings(0)
            prompt, pieces = counted.prompt_eval_count, counted.eval_count
            seen = (1, 0, prompt, pieces) if whole else (1, 1, 0, record.frames_sent)
        else:
            continue
        sums = told.setdefault(record.json["model"], [0, 0, 0, 0])
        told[record.json["model"]] = [a + b for a, b in zip(sums, seen, strict=True)]
    return {name: tuple(sums) for name, sums in told.items()}


async def kill_in_the_middle(fleet: Fleet, seed: int) -> None:
    """Turns that are silent once their pieces came: those are booked within a second. Then -9."""
    async with fleet.function() as (client, process):
        tasks = []
        for n in range(KILLED_AT_ONCE):
            said = [{"role": "user", "content": f"killed {seed + n + 1}"}]
            body = {"messages": said, "model": "killed:1"}
            tasks.append(asyncio.create_task(leave_after(client, body, 10**9)))
        await fleet.model.until(lambda: all_hang(fleet.model, (seed // 10 + 1) * KILLED_AT_ONCE))
        await fleet.until_booked(told_by(fleet.model))
        process.kill()
        await asyncio.gather(*tasks, return_exceptions=True)


def all_hang(model: ScriptedModel, count: int) -> bool:
    """Whether so many turns that will be killed, or were, have had all their pieces."""
    killed = [one for one in model.generations if one.json["model"] == "killed:1"]
    return len(killed) == count and all(
        one.frames_sent == len(reply_to(one).frames) + 1 for one in killed
    )


async def test_booked_usage_is_what_the_model_server_told(
    postgres_dsn: str, scripted_model: ScriptedModel
) -> None:
    chance = random.Random(8)
    async with fleet(postgres_dsn, scripted_model) as place:
        async with place.function() as (client, _):
            room = asyncio.Semaphore(16)

            async def turn(number: int) -> None:
                async with room:
                    kind = KINDS[number % len(KINDS)]
                    await one_turn(place, client, kind, chance.randint(1, 40))

            await asyncio.gather(*(turn(number) for number in range(TURNS)))
            told = told_by(scripted_model)
            assert set(told) == {f"{kind}:1" for kind in KINDS} - {"refused:1"}
            await place.until_booked(told)
        for number in range(KILLS):
            await kill_in_the_middle(place, 10 * number)
        told = told_by(scripted_model)
        assert told["killed:1"][0] == KILLS * KILLED_AT_ONCE
        await place.until_booked(told)
