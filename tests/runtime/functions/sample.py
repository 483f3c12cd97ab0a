"""A function with one route for each behaviour that the suite asks for."""

import asyncio
import json
import os
import sys
import time
from urllib.parse import parse_qs

import lambda_stream

ROUTES = {}


def route(function):
    ROUTES["/" + function.__name__.replace("_", "-")] = function
    return function


async def start(send, status=200, kind="text/plain", *headers):
    fields = [(b"content-type", kind.encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})


@route
async def hello(scope, receive, send):
    await start(send)
    await body(send, b"hello", True)
    await body(send, b" world", True)
    await body(send)


@route
async def echo(scope, receive, send):
    request = await receive()
    known = {k: v for k, v in scope.items() if not k.startswith("aws.") and k != "state"}
    text = json.dumps(known, default=lambda v: bytes(v).decode("latin-1"))
    document = json.loads(text) | {
        "body": request["body"].decode("latin-1"),
        "state": scope.get("state"),
        "function": scope["aws.context"].function_name,
        "event_keys": sorted(scope["aws.event"]),
        "trace": os.environ.get("_X_AMZN_TRACE_ID"),
        "left_ms": scope["aws.context"].get_remaining_time_in_millis(),
    }
    await start(send, 200, "application/json")
    await body(send, json.dumps(document).encode())


@route
async def size(scope, receive, send):
    request = await receive()
    await start(send)
    await body(send, b"%d" % len(request["body"]))


@route
async def frames(scope, receive, send):
    query = parse_qs(scope["query_string"].decode())
    count, gap_s = int(query["n"][0]), float(query.get("gap", ["0"])[0])
    await start(send, 200, "text/event-stream")
    for number in range(count):
        await body(send, b"data: %d\n\n" % number, True)
        if gap_s:
            await asyncio.sleep(gap_s)
    await body(send)


@route
async def blocking_frames(scope, receive, send):
    await start(send, 200, "text/event-stream")
    for number in range(4):
        await body(send, b"data: %d\n\n" % number, True)
        await body(send, b"data: %d+\n\n" % number, True)
        time.sleep(0.15)  # noqa: ASYNC251 - a bad application, on purpose
    await body(send)


@route
async def status(scope, receive, send):
    query = parse_qs(scope["query_string"].decode())
    await start(send, int(query["code"][0]))
    await body(send, query.get("body", [""])[0].encode())


@route
async def empty_late(scope, receive, send):
    await start(send, 200, parse_qs(scope["query_string"].decode())["kind"][0])
    await asyncio.sleep(0.03)
    await body(send)


@route
async def headers(scope, receive, send):
    await start(
        send, 200, "text/plain",
        (b"Set-Cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2"), (b"x-two", b"1"),
        (b"X-Two", b"2"), (b"connection", b"close"), (b"x-latin", b"caf\xe9"),
    )  # fmt: skip
    await body(send, b"x")


@route
async def untyped(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await body(send, b"\x00\xff")


@route
async def big_headers(scope, receive, send):
    await start(send, 200, "text/plain", (b"x-big", b"x" * 17000))
    await body(send, b"x")


@route
async def split_header(scope, receive, send):
    await start(send, 200, "text/plain", (b"x-a", b"1\r\nx-b: 2"))
    await body(send, b"x")


@route
async def raise_before(scope, receive, send):
    raise ValueError("secret of the house")


@route
async def raise_after(scope, receive, send):
    kind = parse_qs(scope["query_string"].decode()).get("kind", ["text/event-stream"])[0]
    await start(send, 200, kind)
    await body(send, b"data: 1\n\n", True)
    raise ValueError("secret of the house")


@route
async def raise_at_once(scope, receive, send):
    await start(send, 200)
    raise ValueError("right after the start")


@route
async def long_background(scope, receive, send):
    lambda_stream.background(asyncio.sleep(60))
    await start(send)
    await body(send, b"done")


@route
async def background_error(scope, receive, send):
    async def fail():
        raise ValueError("in the background")

    lambda_stream.background(fail())
    await start(send)
    await asyncio.sleep(0.05)
    await body(send, b"done")


@route
async def exit_after(scope, receive, send):
    await start(send, 200)
    await body(send, b"1", True)
    sys.exit(3)


@route
async def no_answer(scope, receive, send):
    return


@route
async def unfinished(scope, receive, send):
    await start(send, 200)
    await body(send, b"1", True)


@route
async def too_long(scope, receive, send):
    await start(send, 200, "text/plain", (b"content-length", b"3"))
    await body(send, b"12", True)
    await body(send, b"34")


@route
async def out_of_turn(scope, receive, send):
    await body(send, b"12")


@route
async def forever(scope, receive, send):
    await receive()
    gone = asyncio.create_task(receive())
    await start(send, 200, "text/event-stream")
    try:
        while True:
            await body(send, b"data: x\n\n", True)
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        print("CANCELLED", gone.done() and gone.result()["type"], flush=True)
        raise
    except OSError as error:
        print("OSERROR", error, flush=True)
        raise


@route
async def pending(scope, receive, send):
    await receive()
    gone = asyncio.create_task(receive())
    await start(send, 200, "text/event-stream")
    try:
        await body(send, b"data: 1\n\n", True)
        print(*parse_qs(scope["query_string"].decode()).get("say", ()), flush=True)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("CANCELLED", gone.done() and gone.result()["type"], flush=True)
        raise


@route
async def hot(scope, receive, send):
    await start(send, 200, "application/octet-stream")
    while True:
        await body(send, b"x" * 10, True)


@route
async def silent(scope, receive, send):
    try:
        await asyncio.sleep(60)
    finally:
        print("STOPPED", flush=True)


@route
async def polite(scope, receive, send):
    await receive()
    await start(send, 200, "text/event-stream")
    await body(send, b"data: 1\n\n", True)
    assert (await receive())["type"] == "http.disconnect"
    await body(send, b"data: bye\n\n")


@route
async def stubborn(scope, receive, send):
    await start(send, 200, "text/plain")
    await body(send, b"1", True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("IGNORED", flush=True)


@route
async def background(scope, receive, send):
    async def work():
        await asyncio.sleep(0.2)
        print("BACKGROUND", flush=True)

    lambda_stream.background(work())
    await start(send)
    await body(send, b"done")


@route
async def after_end(scope, receive, send):
    await receive()
    await start(send)
    await body(send, b"done")
    print("AFTER", (await receive())["type"], flush=True)
    raise RuntimeError("late")


@route
async def large(scope, receive, send):
    await start(send, 200, "application/octet-stream")
    for number in range(64):
        await body(send, bytes([number]) * 262144, True)
    await body(send)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("LIFESPAN DOWN", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"].removeprefix(scope["root_path"])
    await ROUTES[path](scope, receive, send)


def plain(event, context):
    match event:
        case {"raise": text}:
            raise KeyError(text)
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"unserialisable": _}:
            return object()
        case {"large": size}:
            return "x" * size
        case {"loop": _}:
            return asyncio.run(asyncio.sleep(0, "own loop"))
        case {"exit": code}:
            sys.exit(code)
        case {"background": _}:
            lambda_stream.background(_print_later())
    return {"event": event, "id": context.aws_request_id, "tenant": context.tenant_id}


async def _print_later():
    await asyncio.sleep(0.1)
    print("BACKGROUND", flush=True)


_shut_down = asyncio.Event()


async def plain_async(event, context):
    if event.get("wait"):
        await _shut_down.wait()
        return "settled"
    if event.get("hang"):
        await asyncio.sleep(60)
    return {"async": event}


lambda_stream.on_shutdown(lambda: (print("SHUTDOWN", flush=True), _shut_down.set()))
both = lambda_stream.Function(asgi=app, event=plain)
not_callable = 3


async def bad_lifespan(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
