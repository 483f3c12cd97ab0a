"""A stream ends when it is told to, or when nobody renews the lease that its reader asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import CHAT, frames
from tests.unit.stream_sites import Sites, endless_sites, read, until_kept


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    async with endless_sites(postgres_dsn, scripted_model, mongo_uri, mongo_db_name) as sites:
        yield sites


@pytest.mark.parametrize("stopper", ["one", "two"])
async def test_any_function_stops_the_model(
    sites: Sites, scripted_model: ScriptedModel, stopper: str
) -> None:
    one, two = sites.clients()
    async with one, two:
        part = await read(one, events=2)
        answer = await {"one": one, "two": two}[stopper].delete(f"/chat/streams/{part.id}")
        assert answer.status_code == 202
        await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
        await until_kept(sites.store, part.id, "stopped")
        rest = (await read(two, id=part.id, after=2)).text
        again = await two.delete(f"/chat/streams/{part.id}")
        renewed = await two.post(f"/chat/streams/{part.id}/lease")
    assert frames(rest)[-1]["type"] == "urn:lambent:problem:stopped"
    assert "[DONE]" not in rest
    assert (again.status_code, again.json()["status"]) == (200, "stopped")
    assert renewed.json() == {"id": part.id, "status": "stopped", "lease_until": None}
    await sites.one.until_no_slot_is_taken()


async def test_a_connected_reader_sees_the_stop_as_the_end(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    one, two = sites.clients()
    async with one, two, one.stream("POST", "/chat/stream", json=CHAT) as got:
        id = got.headers["x-stream-id"]
        await two.delete(f"/chat/streams/{id}")
        text = "".join([piece async for piece in got.aiter_text()])
    assert frames(text)[-1]["type"] == "urn:lambent:problem:stopped"
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)


async def test_a_lease_that_nobody_renews_stops_the_model(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    one, _ = sites.clients()
    async with (
        one,
        one.stream("POST", "/chat/stream", json=CHAT, headers={"x-stream-lease": "1"}) as got,
    ):
        text = "".join([piece async for piece in got.aiter_text()])
    assert frames(text)[-1]["type"] == "urn:lambent:problem:stopped"
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
    await sites.one.until_no_slot_is_taken()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("how", ["asking", "reading"])
async def test_a_lease_is_renewed_by_asking_and_by_reading(
    sites: Sites, scripted_model: ScriptedModel, how: str, where: str
) -> None:
    scripted_model.default = Reply.many(350, delay_s=0.01)
    one, two = sites.clients()
    reader = one if where == "here" else two
    async with one, two:
        part = await read(one, events=1, headers={"x-stream-lease": "2"})
        for after in range(0, 330, 30):
            await until_sent(scripted_model, after)
            if how == "asking":
                answer = await reader.post(f"/chat/streams/{part.id}/lease")
                assert answer.json()["lease_until"]
            else:
                await read(reader, id=part.id, after=after, events=1)
        whole = (await read(two, id=part.id)).text
    assert frames(whole)[-1] == "[DONE]"


async def until_sent(model: ScriptedModel, frames: int) -> None:
    await model.until(lambda: model.generations[0].frames_sent > frames)


async def test_a_reader_with_a_lease_may_leave_and_others_keep_the_turn_alive(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(60, delay_s=0.01)
    one, two = sites.clients()
    async with one, two:
        leased = await read(one, events=1)
        plain = await read(one, events=1, headers={})
        assert frames((await read(two, id=leased.id)).text)[-1] == "[DONE]"
        await until_kept(sites.store, plain.id, "failed")
    assert [one.hung_up for one in scripted_model.generations] == [False, True]


async def test_a_plain_stream_goes_on_while_somebody_else_reads_it(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(100, delay_s=0.01)
    one, two = sites.clients()
    async with one, two:
        async with one.stream("POST", "/chat/stream", json=CHAT) as got:
            id = got.headers["x-stream-id"]
            await read(two, id=id, events=1)
        whole = (await read(two, id=id)).text
    assert frames(whole)[-1] == "[DONE]"


@pytest.mark.parametrize(
    "wish", ["0", "901", "-1", "1.5", "x", "", "9" * 20, "000000015" + "9" * 12]
)
async def test_a_lease_that_makes_no_sense_is_refused(sites: Sites, wish: str) -> None:
    one, _ = sites.clients()
    async with one:
        answer = await one.post("/chat/stream", json=CHAT, headers={"x-stream-lease": wish})
    assert answer.status_code == 422
    assert answer.headers["ratelimit"]


async def test_nobody_else_can_see_resume_stop_or_keep_a_stream_alive(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(100, delay_s=0.01)
    one, _ = sites.clients()
    strangers = sites.clients(await sites.one.new_key())
    async with one, strangers[0], strangers[1]:
        part = await read(one, events=1)
        for stranger in strangers:
            at = f"/chat/streams/{part.id}"
            answers = [
                await stranger.get(at),
                await stranger.delete(at),
                await stranger.post(f"{at}/lease"),
            ]
            assert [one.status_code for one in answers] == [404, 404, 404]
        whole = (await read(one, id=part.id)).text
    assert frames(whole)[-1] == "[DONE]"
