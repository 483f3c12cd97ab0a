"""A page that goes away says so with a beacon, and its stream ends unless somebody comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from local.services import ScriptedModel
from tests.unit.chat_site import CHAT, frames
from tests.unit.stream_sites import Sites, endless_sites, until_kept


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    async with endless_sites(postgres_dsn, scripted_model, mongo_uri, mongo_db_name) as sites:
        yield sites


@asynccontextmanager
async def streaming(sites: Sites, **headers: str) -> AsyncIterator[tuple[str, httpx.Response]]:
    """A stream whose reader stays connected, as behind a front that tells nobody of its going."""
    one, _ = sites.clients()
    async with one:
        async with one.stream("POST", "/chat/stream", json=CHAT, headers=headers) as got:
            id = got.headers["x-stream-id"]
            await until_kept(sites.store, id, "live")
            yield id, got
        await one.delete(f"/chat/streams/{id}")
        await sites.one.until_no_slot_is_taken()


async def leave(sites: Sites, id: str, credential: str) -> httpx.Response:
    """As `navigator.sendBeacon` does it: to any function, without a header of its own."""
    async with httpx.AsyncClient(base_url=sites.two.url, trust_env=False) as bare:
        return await bare.post(f"/chat/streams/{id}/leave", content=credential)


@pytest.mark.parametrize("lease", [{"x-stream-lease": "60"}, {}], ids=["lease", "no lease"])
async def test_a_beacon_without_a_header_stops_the_model(
    sites: Sites, scripted_model: ScriptedModel, lease: dict[str, str]
) -> None:
    async with streaming(sites, **lease) as (id, got):
        answer = await leave(sites, id, sites.one.key)
        assert answer.status_code == 200, answer.text
        text = "".join([piece async for piece in got.aiter_text()])
    assert frames(text)[-1]["type"] == "urn:lambent:problem:stopped"
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)


async def test_a_page_that_is_loaded_again_keeps_its_stream(sites: Sites) -> None:
    async with streaming(sites, **{"x-stream-lease": "60"}) as (id, _):
        left = (await leave(sites, id, sites.one.key)).json()["lease_until"]
        assert datetime.fromisoformat(left) < datetime.now(UTC) + timedelta(seconds=6)
        _, two = sites.clients()
        async with two:
            await two.post(f"/chat/streams/{id}/lease")
        found = await sites.store.look(id)
        assert found is not None
        assert found.readers_until is not None
        assert found.readers_until > datetime.now(UTC) + timedelta(seconds=50)


async def test_leaving_counts_though_a_reader_has_just_come_to_where_the_stream_is_made(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    """The page is loaded again, finds its stream in the process that makes it, and is left at
    once: the beacon comes to another one, before the first has put the renewal on record."""
    async with streaming(sites, **{"x-stream-lease": "60"}) as (id, _):
        one, _ = sites.clients()
        async with one, one.stream("GET", f"/chat/streams/{id}") as again:
            await anext(again.aiter_bytes())
            assert (await leave(sites, id, sites.one.key)).status_code == 200
            await scripted_model.until(lambda: scripted_model.generations[0].hung_up)


async def test_who_comes_to_where_the_stream_is_made_after_a_reader_left_keeps_it(
    sites: Sites,
) -> None:
    async with streaming(sites, **{"x-stream-lease": "60"}) as (id, _):
        await leave(sites, id, sites.one.key)
        one, _ = sites.clients()
        async with one, one.stream("GET", f"/chat/streams/{id}") as again:
            await anext(again.aiter_bytes())
            async with asyncio.timeout(60):
                while not await _lasts(sites, id, 50):  # noqa: ASYNC110 - only the store tells
                    await asyncio.sleep(0.05)


async def _lasts(sites: Sites, id: str, seconds: float) -> bool:
    found = await sites.store.look(id)
    assert found is not None
    assert found.readers_until is not None
    return found.readers_until > datetime.now(UTC) + timedelta(seconds=seconds)


async def test_leaving_makes_no_lease_longer(sites: Sites) -> None:
    async with streaming(sites, **{"x-stream-lease": "2"}) as (id, _):
        began = datetime.now(UTC)
        await leave(sites, id, sites.one.key)
        found = await sites.store.look(id)
        assert found is not None
        assert found.readers_until is not None
        assert found.readers_until < began + timedelta(seconds=2.5)


async def test_nobody_else_can_say_that_a_reader_leaves(sites: Sites) -> None:
    other = await sites.one.new_key()
    async with streaming(sites, **{"x-stream-lease": "60"}) as (id, _):
        before = await sites.store.look(id)
        asked = [other, "lam_abc_def", "", "é", "x" * 5000]
        answers = [await leave(sites, id, credential) for credential in asked]
        assert [one.status_code for one in answers] == [404, 401, 401, 401, 413]
        after = await sites.store.look(id)
    assert before is not None
    assert after is not None
    assert (after.stop, after.readers_until) == (before.stop, before.readers_until)
