"""The small HTTP server under the model servers: framing, hang-ups, bad clients."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from local.model_server.http1 import Exchange, HttpServer

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Recorder:
    """Echoes bodies; streams without end on /endless."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        match exchange.path:
            case "/endless":
                exchange.start_stream()
                self.began.set()
                try:
                    while True:
                        await exchange.write(b"x" * 65536)
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "/broken":
                raise RuntimeError("no luck")
            case _:
                exchange.respond(200, exchange.body, content_type="text/plain")


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def server(recorder: Recorder) -> AsyncIterator[HttpServer]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    server = HttpServer(recorder)
    await server.listen()
    yield server
    await server.close()


@pytest.fixture
async def wire(server: HttpServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    yield reader, writer
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        len(body),
        body,
    )


async def test_requests_sent_together_are_answered_in_order(wire: Wire) -> None:
    reader, writer = wire
    writer.write(post("/", b"first") + post("/", b"second") + post("/", b"third"))
    said = b""
    while b"third" not in said:
        said += await asyncio.wait_for(reader.read(65536), timeout=30)
    assert said.index(b"first") < said.index(b"second") < said.index(b"third")


async def test_a_body_byte_by_byte_is_whole(wire: Wire) -> None:
    reader, writer = wire
    for byte in post("/", "grüß dich".encode()):
        writer.write(bytes([byte]))
        await writer.drain()
    said = await asyncio.wait_for(reader.readuntil(b"dich"), timeout=30)
    assert said.endswith("grüß dich".encode())


async def test_a_waiting_client_is_told_to_go_on(wire: Wire) -> None:
    reader, writer = wire
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    writer.write(head)
    told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout=30)
    assert told.startswith(b"HTTP/1.1 100")
    writer.write(b"ok")
    assert (await asyncio.wait_for(reader.readuntil(b"ok"), timeout=30)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_garbage_is_400_and_the_end_of_the_connection(wire: Wire, garbage: bytes) -> None:
    reader, writer = wire
    writer.write(garbage + b"\r\n\r\n")
    said = await asyncio.wait_for(reader.read(), timeout=30)
    assert said.startswith(b"HTTP/1.1 400")


async def test_a_client_that_leaves_cancels_its_handler(recorder: Recorder, wire: Wire) -> None:
    reader, writer = wire
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.read(1000), timeout=30)
    writer.close()
    await asyncio.wait_for(recorder.cancelled.wait(), timeout=30)


async def test_a_client_that_does_not_read_does_not_fill_memory(
    recorder: Recorder, wire: Wire
) -> None:
    _, writer = wire
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(recorder.began.wait(), timeout=30)
    await asyncio.sleep(0.2)
    writer.transport.abort()
    await asyncio.wait_for(recorder.cancelled.wait(), timeout=30)


async def test_a_broken_handler_is_500_and_the_server_lives(server: HttpServer) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
        broken = await http.get("/broken")
        assert (broken.status_code, broken.json()) == (500, {"error": "no luck"})
        assert (await http.post("/", content=b"still here")).text == "still here"


async def test_old_clients_get_their_answer_and_an_end(wire: Wire) -> None:
    reader, writer = wire
    writer.write(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
    said = await asyncio.wait_for(reader.read(), timeout=30)
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"hi")
