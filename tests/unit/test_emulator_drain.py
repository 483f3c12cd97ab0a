"""Ctrl-C on the emulator: what is under way may end, and nothing holds up the stop."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.emulator_toys import STREAM_URL, STREAMING, URL, Toys, eventually, gone

COUNTER = """
import asyncio, os, lambda_stream
lambda_stream.on_shutdown(lambda: print("told to end"))
async def handler(scope, receive, send):
    start = {"type": "http.response.start", "status": 200}
    await send(start | {"headers": [(b"content-type", b"text/event-stream")]})
    try:
        for number in range(int(scope["query_string"])):
            frame = b"data: %d of %d\\n\\n" % (number, os.getpid())
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        print("cancelled in order")
        raise
    await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
"""
SLICE = """
import asyncio, os, lambda_stream
stopped = asyncio.Event()
lambda_stream.on_shutdown(stopped.set)
async def handler(event, context):
    print("advancing", os.getpid())
    await stopped.wait()
    print("settled")
"""
SLOW = """
import time
def handler(event, context):
    time.sleep(0.5)
    return {"statusCode": 200, "body": "slow"}
"""


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


async def read(url: str, began: asyncio.Event) -> str:
    """All that arrives of a stream, cut or not."""
    text = ""
    async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url) as answer:
        try:
            async for piece in answer.aiter_text():
                began.set()
                text += piece
        except httpx.RemoteProtocolError:
            text += "(cut)"
    return text


async def drained_while_it_streams(toys: Toys, frames: int, **settings: Any) -> str:
    """What the client of a stream of so many tenths of a second gets when a drain begins."""
    toys.add("chat", COUNTER, env=STREAMING, **STREAM_URL)
    async with toys.run(grace_s=10.0, **settings) as emulator:
        url, began = await emulator.serve_function("chat"), asyncio.Event()
        reading = asyncio.create_task(read(f"{url}/?{frames}", began))
        await began.wait()
        await emulator.drain(settings.get("drain_s", 0) + 20)
        assert emulator.pids() == {"chat": []}
        return await reading


async def test_a_chat_under_way_ends_by_itself(toys: Toys) -> None:
    text = await drained_while_it_streams(toys, 10, drain_s=20.0)
    assert text.endswith("data: [DONE]\n\n")
    assert text.count(" of ") == 10
    log = toys.log("chat")
    assert "Error" not in log
    assert log.index("END RequestId") > log.index("told to end") > log.index("START RequestId")


async def test_a_chat_that_would_go_on_is_ended_in_order(toys: Toys) -> None:
    text = await drained_while_it_streams(toys, 6000, drain_s=0.5)
    assert "event: error" in text
    assert "[DONE]" not in text
    assert toys.log("chat").index("told to end") < toys.log("chat").index("cancelled in order")


async def test_without_a_drain_time_a_stream_has_what_lambda_gives(toys: Toys) -> None:
    text = await drained_while_it_streams(toys, 6000)
    assert "event: error" in text
    assert text.count(" of ") < 20


async def test_a_slice_learns_at_once_that_it_ends(toys: Toys) -> None:
    async with toys.add("step", SLICE, env=STREAMING).run(drain_s=60.0, grace_s=5.0) as emulator:
        running = asyncio.create_task(emulator.invoke("step", {}))
        await toys.logged("step", "advancing")
        began_s = time.monotonic()
        await emulator.drain(60)
        assert time.monotonic() - began_s < 30
        assert await running is None
    assert "settled" in toys.log("step")


async def test_a_managed_function_is_waited_for(toys: Toys) -> None:
    async with toys.add("gateway", SLOW, **URL).run(drain_s=60.0) as emulator:
        url = await emulator.serve_function("gateway")
        async with httpx.AsyncClient(timeout=30) as client:
            asking = asyncio.create_task(client.get(url))
            await toys.logged("gateway", "START")
            await emulator.drain(60)
            assert (await asking).text == "slow"


async def test_a_second_stop_cuts_a_drain_short(toys: Toys) -> None:
    toys.add("chat", COUNTER, env=STREAMING, **STREAM_URL)
    async with toys.run(drain_s=600.0) as emulator:
        url, began = await emulator.serve_function("chat"), asyncio.Event()
        reading = asyncio.create_task(read(f"{url}/?6000", began))
        await began.wait()
        (pid,) = emulator.pids()["chat"]
        draining = asyncio.create_task(emulator.drain(600))
        await eventually(lambda: emulator.pids() == {"chat": []})
        draining.cancel()
    assert gone(pid)
    assert (await reading).endswith("(cut)")
