"""A client that has its whole answer may leave: nobody is told of a broken connection."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.emulator_toys import STREAM_URL, STREAMING, Toys

SLOW_END = """
import asyncio
async def handler(scope, receive, send):
    head = [(b"content-length", b"2")] if scope["path"] == "/whole" else []
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"ok", "more_body": True})
    await asyncio.sleep(0.5)
    await send({"type": "http.response.body"})
    print("ended", scope["path"])
"""


@pytest.mark.parametrize(("path", "cut"), [("/whole", False), ("/open", True)])
async def test_only_a_client_that_leaves_too_early_cuts_the_answer(
    tmp_path: Path, path: str, cut: bool
) -> None:
    toys = Toys(tmp_path).add("slow", SLOW_END, env=STREAMING, **STREAM_URL)
    async with toys.run() as emulator:
        url = await emulator.serve_function("slow")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"ok")
        writer.close()
        await writer.wait_closed()
        await toys.logged("slow", "REPORT RequestId")
        if cut:  # told by who served the client, who may hear of it after the function has ended
            await toys.logged("slow", "was cut")
        assert (f"ended {path}" in toys.log("slow")) is not cut
        assert ("was cut" in toys.log("slow")) is cut
