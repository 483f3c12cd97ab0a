"""The emulator's HTTP server under clients that are slow, wrong, or gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.emulator.chunked import BadChunk, ChunkedDecoder
from local.emulator.exchange import BodyTooLarge, Exchange
from local.emulator.wire import Handler, Server


@asynccontextmanager
async def connected(
    handler: Handler,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    server = await Server(handler).start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await server.close()


async def mirror(exchange: Exchange) -> None:
    body = await exchange.body()
    await exchange.respond(200, f"{exchange.request.path}:".encode() + body)


async def answer_of(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lengths = [line for line in head.lower().splitlines() if line.startswith("content-length")]
    length = int(lengths[0].split(":")[1]) if lengths else 0
    return head.splitlines()[0], await reader.readexactly(length)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with connected(mirror) as (reader, writer):
        one = b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n%d%d"
        writer.write(b"".join(one % (number, number, number) for number in range(5)))
        for number in range(5):
            status, body = await answer_of(reader)
            assert "200" in status
            assert body == b"/%d:%d%d" % (number, number, number)


async def test_a_client_that_expects_100_gets_it_before_it_sends() -> None:
    async with connected(mirror) as (reader, writer):
        head = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        writer.write(head)
        assert "100" in (await answer_of(reader))[0]
        writer.write(b"hi")
        assert (await answer_of(reader))[1] == b"/a:hi"


async def test_a_chunked_request_body_is_read() -> None:
    async with connected(mirror) as (reader, writer):
        writer.write(b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in (b"2\r\nh", b"e\r\n3\r", b"\nllo\r\n0\r\n", b"\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert (await answer_of(reader))[1] == b"/a:hello"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\n\r\n", "400"),  # no host
        (b"\x16\x03\x01\x02\x00 a TLS hello\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad name: y\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", "400"),
        (b"CONNECT a:443 HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 70_000 + b"\r\n\r\n", "431"),
    ],
)
async def test_what_is_no_proper_request_is_refused(request_bytes: bytes, status: str) -> None:
    async with connected(mirror) as (reader, writer):
        writer.write(request_bytes)
        assert status in (await answer_of(reader))[0]
        assert await reader.read() == b""


async def test_a_refused_body_still_lets_the_client_read_the_answer() -> None:
    async def refuse(exchange: Exchange) -> None:
        with pytest.raises(BodyTooLarge):
            await exchange.body(10)
        await exchange.respond(413, b"too much", [("connection", "close")])

    async with connected(refuse) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n")
        for _ in range(80):
            writer.write(b"x" * 100_000)
            await writer.drain()
        assert await answer_of(reader) == ("HTTP/1.1 413 Request Entity Too Large", b"too much")


async def test_a_handler_learns_that_its_client_is_gone() -> None:
    told = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await exchange.gone
        told.set()

    async with connected(wait) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await writer.drain()
        writer.close()
        await told.wait()


async def test_an_old_client_gets_a_body_that_ends_with_the_connection() -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.send(b"a")
        exchange.send(b"b")
        exchange.finish()

    async with connected(stream) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\nab")


async def test_a_slow_client_holds_back_the_sender() -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        exchange.start(200, [])
        for _ in range(2000):
            exchange.send(b"x" * 50_000)
            sent += 1
            await exchange.drain()
        exchange.finish()

    async with connected(flood) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.read(1)
        await asyncio.sleep(0.3)
        assert sent < 500  # what the sockets' buffers take, and no more


@given(st.lists(st.binary(min_size=1, max_size=50)), st.data())
def test_the_chunk_decoder_gives_back_what_was_chunked(
    payloads: list[bytes], data: st.DataObject
) -> None:
    raw = b"".join(b"%X;ext=1\r\n%b\r\n" % (len(p), p) for p in payloads) + b"0\r\nA-B: c\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    decoder = ChunkedDecoder()
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert b"".join(decoder.feed(piece) for piece in pieces) == b"".join(payloads)
    assert decoder.done
    assert decoder.trailers == {"a-b": "c"}


@pytest.mark.parametrize(
    "raw", [b"x\r\n", b"-1\r\n", b"2\r\nabc\r\n", b"\r\n", b"0\r\nnocolon\r\n"]
)
def test_the_chunk_decoder_refuses_what_is_no_chunk(raw: bytes) -> None:
    with pytest.raises(BadChunk):
        ChunkedDecoder().feed(raw)
