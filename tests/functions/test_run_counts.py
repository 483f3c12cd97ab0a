"""How many runs there are in each state: for a filter, live, and however many there are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from lambent.admission.decisions import Scope
from lambent.app import Platform
from lambent.http.chat_app import build_chat_app
from lambent.http.run_route import run_events_routes
from lambent.ids import new_ulid
from tests.functions.admin_site import HERE, AdminSite
from tests.functions.test_queries_by_index import many, run

PATIENCE_S = 60


async def made(site: AdminSite, **states: int) -> None:
    """So many runs in each state, of one workflow and client."""
    now = site.parts.clock.now()
    named = {"workflow": "w", "version": 1, "client": "c1"}
    for state, count in states.items():
        ids = (new_ulid(site.parts.clock) for _ in range(count))
        runs = [
            run(3, now) | {"_id": id, "key": id, "marks": [id], "status": state, **named}
            for id in ids
        ]
        await many(site.parts.mongo.db["runs"], runs)


def told(counts: dict[str, Any]) -> dict[str, str]:
    """The counts that are not nought, as a page writes them."""
    written = {one: f"{n['count']}{'+' if n['more'] else ''}" for one, n in counts.items()}
    return {one: text for one, text in written.items() if text != "0"}


async def test_each_state_is_counted_for_the_filter_and_whose_runs_may_be_seen(
    site: AdminSite,
) -> None:
    await made(site, failed=3, running=2, completed=1_050)
    other = await site.run()
    counts = {"failed": "3", "running": "2", "completed": "1000+"}

    async def asked(key: str, **query: Any) -> dict[str, str]:
        async with site.client(key) as client:
            answer = await client.get("/runs/counts", params=query)
        assert answer.status_code == 200, answer.text
        return told(answer.json()["counts"])

    admin = await site.key()
    assert await asked(admin) == {**counts, "pending": "1"}
    assert await asked(admin, workflow="w") == counts
    assert await asked(admin, workflow="w", version=2) == {}
    assert await asked(admin, client="ops") == {"pending": "1"}
    assert await asked(admin, created_to="2026-01-01T00:00:00Z") == {}
    assert await asked(await site.key(Scope.RUNS, client="ops")) == {"pending": "1"}
    # Of a client's very many the newest are looked at, and what they hold is the least there is.
    newest = await asked(admin, client="c1")
    assert newest["completed"] == "1000+"
    assert all(text.endswith("+") for text in newest.values())
    assert other


def watched(parts: Platform) -> Any:
    """A chat function whose streams to pages end after two seconds."""
    routes = run_events_routes(
        lambda: parts.engine, gate=parts.gate, keep_alive_s=5, page_s=2.0, clock=parts.clock
    )
    return build_chat_app(parts.chats, more=routes)


@asynccontextmanager
async def events(parts: Platform, key: str, query: str, **headers: str) -> AsyncIterator[Any]:
    """The frames of the stream, as they come."""
    app = watched(parts)
    frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            frames.put_nowait({"status": message["status"]})
        for frame in message.get("body", b"").decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
            if "data" in lines:
                frames.put_nowait({"id": lines["id"], **json.loads(lines["data"])})
        if message["type"] == "http.response.body" and not message.get("more_body"):
            frames.put_nowait(None)

    async def receive() -> Any:
        await asyncio.Event().wait()

    sent = {"authorization": f"Bearer {key}", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "path": "/runs/counts/events", "raw_path": b"/runs/counts/events", "root_path": "",
        "scheme": "http", "query_string": query.encode(), "client": ("x", 1), "server": ("x", 1),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))

    async def next_one() -> dict[str, Any] | None:
        return await asyncio.wait_for(frames.get(), PATIENCE_S)

    try:
        yield next_one
    finally:
        task.cancel()


async def page_token(site: AdminSite) -> str:
    browser = await site.browser(key=await site.key())
    headers = {"origin": HERE, "sec-fetch-site": "same-origin"}
    said = await browser.client.get("/admin/session/token", headers=headers)
    return str(said.json()["token"])


async def test_a_change_of_the_list_is_told_and_nothing_twice(site: AdminSite) -> None:
    await made(site, failed=3)
    key = await site.key()
    async with events(site.parts, key, "workflow=news.digest") as next_one:
        assert await next_one() == {"status": 200}
        first = await next_one()
        assert told(first["counts"]) == {}
        await site.run()
        second = await next_one()
        assert told(second["counts"]) == {"pending": "1"}
        assert second["runs"] != first["runs"]
    last = {"last-event-id": str(second["id"])}
    async with events(site.parts, key, "workflow=news.digest", **last) as next_one:
        assert await next_one() == {"status": 200}
        await site.run()
        assert told((await next_one())["counts"]) == {"pending": "2"}


async def test_what_is_on_another_page_changes_counts_alone(site: AdminSite) -> None:
    await made(site, failed=1)
    async with events(site.parts, await site.key(), "status=failed") as next_one:
        await next_one()
        first = await next_one()
        await site.run()
        second = await next_one()
    assert told(second["counts"]) == {"failed": "1", "pending": "1"}
    assert second["runs"] == first["runs"]


async def test_the_stream_ends_by_itself_for_a_page_and_for_a_program(site: AdminSite) -> None:
    for credential in (await page_token(site), await site.key()):
        async with events(site.parts, credential, "") as next_one:
            assert [await next_one() is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("query", "field"),
    [("status=none", "status"), ("version=2", "version"), ("limit=0", "limit"), ("x=1", "x")],
)
async def test_what_cannot_be_asked_is_a_problem_and_no_stream(
    site: AdminSite, query: str, field: str
) -> None:
    transport = httpx.ASGITransport(app=watched(site.parts), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
        path = f"/runs/counts/events?{query}"
        headers = {"authorization": f"Bearer {await site.key()}"}
        said = await client.get(path, headers=headers)
        assert said.status_code == 422, said.text
        assert said.json()["errors"][0]["field"] == field
        chat = {"authorization": f"Bearer {await site.key(Scope.CHAT)}"}
        assert (await client.get("/runs/counts/events", headers=chat)).status_code == 403
        assert (await client.get("/runs/counts/events")).status_code == 401
