"""`Idempotency-Key` on what makes something of a conversation, and what is too long to be kept."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from lambent.chat.idempotency import IdempotencyKeys
from lambent.chat.messages import ANSWER_BYTES
from lambent.clock import SystemClock
from lambent.errors import StoreUnavailable, TooLarge
from lambent.models.values import Message, Role
from tests.unit.test_conversations_http import HI, Site, site

__all__ = ["site"]

KEY = {"idempotency-key": "order-66"}
ROUTES = ["", "/fork", "/messages"]
OTHER: dict[str, Any] = {"messages": [{"role": "user", "content": "Something else"}]}


class Earlier(SystemClock):
    def now(self) -> datetime:
        return super().now() - timedelta(minutes=1)


async def begun(acme: httpx.AsyncClient, route: str) -> tuple[str, Any, Any]:
    """A route's path on a conversation of two messages, a body for it, and another body."""
    made = await acme.post("/conversations", json={"messages": HI["messages"] * 2})
    if route == "/fork":
        return made.headers["location"] + route, {"at": "1.2"}, {"at": "1.1"}
    return (made.headers["location"] + route if route else "/conversations"), HI, OTHER


async def count(acme: httpx.AsyncClient) -> tuple[int, int]:
    """Conversations and messages that there are."""
    found = (await acme.get("/conversations")).json()["conversations"]
    read = [(await acme.get(f"/conversations/{one['id']}")).json() for one in found]
    return len(found), sum(len(one["messages"]) for one in read)


@pytest.mark.parametrize("route", ROUTES)
async def test_many_at_once_with_one_key_make_one_thing(site: Site, route: str) -> None:
    acme = await site.caller("acme")
    path, body, other = await begun(acme, route)
    asking = [acme.post(path, json=body, headers=KEY) for _ in range(12)]
    answers = [*await asyncio.gather(*asking), await acme.post(path, json=body, headers=KEY)]
    assert {one.status_code for one in answers} == {201}, answers[0].text
    assert len({(one.text, one.headers.get("location")) for one in answers}) == 1
    assert len([one for one in answers if "idempotency-replayed" not in one.headers]) == 1
    assert await count(acme) == {"": (2, 3), "/fork": (2, 4), "/messages": (1, 3)}[route]
    refused = await acme.post(path, json=other, headers=KEY)
    assert refused.status_code == 422
    assert refused.json()["type"].endswith(":idempotency_key_reused")
    again = await acme.post(path, json=body, headers={"idempotency-key": "another"})
    assert again.status_code == 201
    assert again.text != answers[0].text


@pytest.mark.parametrize("route", ROUTES)
async def test_what_a_function_made_that_died_over_it_is_not_made_twice(
    site: Site, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await site.caller("acme")
    path, body, _ = await begun(acme, route)

    async def dies(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("It died.")

    with monkeypatch.context() as dying:
        # Made, but neither noted nor, as far as the record knows, by anybody who lives.
        dying.setattr(IdempotencyKeys, "answered", dies)
        dying.setattr("lambent.chat.idempotency._LEASE", timedelta(seconds=-1))
        first = await acme.post(path, json=body, headers=KEY)
    made = await count(acme)
    again = await acme.post(path, json=body, headers=KEY)
    assert again.text == first.text
    assert await count(acme) == made


async def test_half_of_a_conversation_is_made_whole_by_who_takes_over(site: Site) -> None:
    said = [Message(role=Role.user, content=f"word {n}") for n in range(3)]
    whole = await site.store.create("acme", messages=said, id="01JD0000000000000000000000")
    heads = site.store._conversations
    await heads.delete_one({"_id": whole.id})  # its entries came first
    again = await site.store.create("acme", messages=said, id=whole.id)
    (entry,) = await site.store.entries(again.id, client="acme")
    assert [one.content for one in entry.messages] == [one.content for one in said]


async def test_a_refusal_leaves_the_key_free_and_a_key_is_its_clients(site: Site) -> None:
    acme, other = await site.caller("acme"), await site.caller("other")
    path, body, _ = await begun(acme, "/fork")
    for _ in range(2):
        refused = await acme.post(path, json={"at": "9.1"}, headers=KEY)
        assert refused.status_code == 404
        assert "idempotency-replayed" not in refused.headers
    key = {"idempotency-key": "second"}
    assert (await acme.post(path, json=body, headers=key)).status_code == 201
    assert (await other.post(path, json=body, headers=key)).status_code == 404
    bad = await acme.post(path, json=body, headers={"idempotency-key": "two words"})
    assert bad.status_code == 422


@pytest.mark.parametrize("letter", ["\x01", '"', "é", "😀"])
async def test_a_message_that_could_not_be_read_back_is_refused(site: Site, letter: str) -> None:
    acme = await site.caller("acme")
    takes = {"\x01": 7, '"': 4, "é": 2, "😀": 4}[letter]
    fits, not_ = letter * (ANSWER_BYTES // takes - 10), letter * (ANSWER_BYTES // takes + 10)
    made = await site.store.create("acme", messages=[Message(role=Role.user, content=fits)])
    read = await acme.get(f"/conversations/{made.id}")
    assert read.json()["messages"][0]["content"] == fits
    answer = json.dumps({"statusCode": 200, "body": read.text}, ensure_ascii=False)
    assert len(answer.encode()) < 6_000_000
    too_long = [Message(role=Role.user, content=not_)]
    with pytest.raises(TooLarge, match="divide it among several"):
        await site.store.append(made.id, too_long, client="acme")
    with pytest.raises(TooLarge):
        await site.store.create("acme", messages=too_long)
