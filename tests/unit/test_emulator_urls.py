"""Function URLs of the emulator: real processes, a real client, frames as they come."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.front import route
from tests.unit.emulator_toys import STREAM_URL, STREAMING, URL, Toys

ECHO = """
def handler(event, context):
    return event
"""

TICKS = """
import asyncio
async def handler(scope, receive, send):
    head = [(b"content-type", b"text/event-stream")]
    head += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for number in range(4):
        frame = b"data: %d\\n\\n" % number
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        await asyncio.sleep(0.15)
    await send({"type": "http.response.body"})
"""


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


async def collect(client: httpx.AsyncClient, url: str, got: list[bytes]) -> None:
    async with client.stream("GET", url) as answer:
        async for frame in answer.aiter_raw():
            got.append(frame)


async def echoed(toys: Toys, method: str, path: str, **request: Any) -> dict[str, Any]:
    async with toys.add("echo", ECHO, **URL).run() as emulator, httpx.AsyncClient() as client:
        url = await emulator.serve_function("echo")
        answer = await client.request(method, url + path, **request)
        event: dict[str, Any] = answer.json()
        return event


async def test_a_stream_arrives_frame_by_frame(toys: Toys) -> None:
    toys.add("ticks", TICKS, env=STREAMING, **STREAM_URL)
    async with toys.run() as emulator, httpx.AsyncClient() as client:
        url = await emulator.serve_function("ticks")
        async with client.stream("GET", url) as answer:
            frames = [(frame, time.monotonic()) async for frame in answer.aiter_raw()]
    assert [frame for frame, _ in frames] == [b"data: %d\n\n" % number for number in range(4)]
    assert frames[-1][1] - frames[0][1] > 0.3  # not held back and delivered at once
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


async def test_a_client_that_hangs_up_stops_the_application(toys: Toys) -> None:
    source = """
    import asyncio
    async def handler(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        message = await receive()
        print("told", message["type"])
    """
    toys.add("patient", source, env=STREAMING, **STREAM_URL)
    async with toys.run() as emulator, httpx.AsyncClient() as client:
        url = await emulator.serve_function("patient")
        async with client.stream("GET", url) as answer:
            await anext(answer.aiter_raw())
        await toys.logged("patient", "told http.disconnect")


async def test_the_event_is_shaped_as_aws_shapes_it(toys: Toys) -> None:
    headers = [("Cookie", "a=b; c=d"), ("X-Twice", "1"), ("x-twice", "2"), ("User-Agent", "me")]
    event = await echoed(toys, "PUT", "/p%20q/é?x=1&x=2&y", json={"q": 1}, headers=headers)
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/p%20q/%C3%A9"
    assert event["rawQueryString"] == "x=1&x=2&y"
    assert event["queryStringParameters"] == {"x": "1,2", "y": ""}
    assert event["cookies"] == ["a=b", "c=d"]
    assert "cookie" not in event["headers"]
    assert event["headers"]["x-twice"] == "1,2"
    assert (event["body"], event["isBase64Encoded"]) == ('{"q":1}', False)
    http = event["requestContext"]["http"]
    assert (http["method"], http["path"], http["userAgent"]) == ("PUT", "/p%20q/%C3%A9", "me")
    assert http["sourceIp"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("content_type", "encoded"),
    [("text/plain", False), ("application/problem+json", False), ("image/png", True)],
)
async def test_binary_bodies_come_as_base64(toys: Toys, content_type: str, encoded: bool) -> None:
    event = await echoed(toys, "POST", "/", content=b"hi", headers={"content-type": content_type})
    assert event["isBase64Encoded"] is encoded
    assert event["body"] == ("aGk=" if encoded else "hi")


async def test_invalid_utf8_reaches_the_function_unharmed(toys: Toys) -> None:
    event = await echoed(
        toys, "POST", "/", content=b"\xff", headers={"content-type": "application/json"}
    )
    assert (event["body"], event["isBase64Encoded"]) == ("/w==", True)


async def test_format_two_answers_become_http(toys: Toys) -> None:
    source = """
    def handler(event, context):
        return {"statusCode": 401, "headers": {"X-A": "b", "WWW-Authenticate": "Bearer"},
                "cookies": ["k=v; Path=/"], "body": "aGk=", "isBase64Encoded": True}
    """
    async with toys.add("shaped", source, **URL).run() as emulator, httpx.AsyncClient() as client:
        answer = await client.get(await emulator.serve_function("shaped"))
    assert (answer.status_code, answer.content) == (401, b"hi")
    assert answer.headers["x-a"] == "b"
    assert answer.headers["set-cookie"] == "k=v; Path=/"
    assert answer.headers["x-amzn-remapped-www-authenticate"] == "Bearer"


@pytest.mark.parametrize("answer", ['{"a": 1}', "[1, 2]", '"text"', "null"])
async def test_any_other_answer_is_the_body_itself(toys: Toys, answer: str) -> None:
    source = f"import json\ndef handler(event, context):\n    return json.loads({answer!r})\n"
    async with toys.add("bare", source, **URL).run() as emulator, httpx.AsyncClient() as client:
        got = await client.get(await emulator.serve_function("bare"))
    assert got.status_code == 200
    assert got.headers["content-type"] == "application/json"
    expected = "text" if answer == '"text"' else json.loads(answer)
    assert (got.text if answer == '"text"' else got.json()) == expected


async def test_head_and_empty_answers_end_at_once(toys: Toys) -> None:
    source = """
    async def handler(scope, receive, send):
        status = 204 if scope["path"] == "/none" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"" if status == 204 else b"hello"})
    """
    toys.add("brief", source, env=STREAMING, **STREAM_URL)
    async with toys.run() as emulator, httpx.AsyncClient(timeout=10) as client:
        url = await emulator.serve_function("brief")
        for _ in range(2):  # twice: the connection is kept
            assert (await client.head(url)).content == b""
            assert (await client.get(f"{url}/none")).status_code == 204
            assert (await client.get(url)).content == b"hello"


async def test_a_body_over_six_megabytes_is_refused_without_the_function(toys: Toys) -> None:
    async with toys.add("echo", ECHO, **URL).run() as emulator, httpx.AsyncClient() as client:
        url = await emulator.serve_function("echo")
        answer = await client.post(url, content=b"x" * (6 * 1024 * 1024 + 1))
        assert answer.status_code == 413
        assert answer.headers["x-amzn-errortype"] == "RequestEntityTooLargeException"
        assert emulator.pids() == {"echo": []}
        assert (await client.post(url, json="small")).status_code == 200


async def test_a_function_error_is_a_502_without_details(toys: Toys) -> None:
    source = """
    def handler(event, context):
        raise ValueError("the secret reason")
    """
    async with toys.add("broken", source, **URL).run() as emulator, httpx.AsyncClient() as client:
        answer = await client.get(await emulator.serve_function("broken"))
    assert answer.status_code == 502
    assert "secret" not in answer.text
    assert "the secret reason" in toys.log("broken")


async def test_a_stream_that_fails_midway_does_not_look_whole(toys: Toys) -> None:
    source = """
    async def handler(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("in the middle")
    """
    toys.add("torn", source, env=STREAMING, **STREAM_URL)
    async with toys.run() as emulator, httpx.AsyncClient() as client:
        url = await emulator.serve_function("torn")
        got: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await collect(client, url, got)
        assert got == [b"half"]  # what was sent before the failure still arrives


async def test_the_front_sends_each_path_to_its_function(toys: Toys) -> None:
    toys.add("chat", ECHO.replace("event\n", "'chat'\n"), **URL)
    toys.add("gateway", ECHO.replace("event\n", "'gateway'\n"), **URL)
    async with toys.run() as emulator, httpx.AsyncClient() as client:
        server = await emulator.serve(route)
        url = f"http://127.0.0.1:{server.port}"
        assert (await client.get(f"{url}/chat/stream")).text == "chat"
        assert (await client.get(f"{url}/chatter")).text == "gateway"
        assert (await client.get(f"{url}/health")).text == "chat"
        assert (await client.get(f"{url}/health/live")).text == "gateway"
        assert (await client.get(f"{url}/runs/x/events")).text == "chat"
        assert (await client.get(f"{url}/")).text == "gateway"


async def test_beyond_this_machines_limit_a_request_waits_and_a_person_learns_why(
    toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    toys.add("slow", "import time\ndef handler(event, context):\n    time.sleep(15)\n", **URL)
    limits = {"max_environments": 1, "queue_s": 0.1, "init_s": 0.1}
    async with toys.run(**limits) as emulator, httpx.AsyncClient(timeout=30) as client:
        emulator.pools["slow"].warm()
        assert await emulator.pools["slow"].warmed()
        url = await emulator.serve_function("slow")
        first = asyncio.create_task(client.get(url))
        await toys.logged("slow", "START")
        refused = await client.get(url)
        first.cancel()
    assert refused.status_code == 429
    assert refused.json()["Reason"] == "ConcurrentInvocationLimitExceeded"
    assert "slow: all 1 environments are busy" in caplog.text
