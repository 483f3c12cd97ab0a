"""Conversations over HTTP: made, read, grown, forked, exported and forgotten by their client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest

from lambent.admission.decisions import AdmissionConfig, Scope
from lambent.admission.gate import Gate
from lambent.admission.keys import KeyStore
from lambent.admission.migrate import migrate
from lambent.chat.conversations import ConversationStore
from lambent.chat.idempotency import IdempotencyKeys
from lambent.chat.messages import check_readable
from lambent.clock import SystemClock
from lambent.errors import TooLarge
from lambent.http.authorize import authorize
from lambent.http.conversations import conversations_router
from lambent.http.gateway_app import build_gateway_app
from lambent.models.values import Message, Role
from lambent.mongo import Mongo
from lambent.postgres import Postgres

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi there"}]}


@dataclass(frozen=True, slots=True)
class Site:
    app: Any
    keys: KeyStore
    store: ConversationStore

    async def caller(self, client: str, *scopes: Scope) -> httpx.AsyncClient:
        made = await self.keys.create(client, "test", scopes=list(scopes or (Scope.CHAT,)))
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app),
            base_url="http://test",
            headers={"authorization": f"Bearer {made.text}"},
        )


@pytest.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[Site]:
    clock = SystemClock()
    postgres = Postgres(postgres_dsn, clock=clock)
    await migrate(postgres)
    mongo = Mongo(mongo_uri, mongo_db_name, clock=clock)
    store = ConversationStore(lambda: mongo, clock=clock)
    await store.ensure_indexes()
    keys = IdempotencyKeys(lambda: mongo, clock=clock)
    gate = Gate(postgres, clock=clock, config=AdmissionConfig(limit=100_000))
    routers = [conversations_router(store, authorize, keys=keys)]
    app = build_gateway_app(gate=gate, clock=clock, pings={}, routers=routers)
    yield Site(cast(Any, app), KeyStore(postgres, clock=clock), store)
    await mongo.close()
    await postgres.close()


async def test_a_conversation_is_made_read_renamed_and_forgotten(site: Site) -> None:
    acme = await site.caller("acme")
    made = await acme.post("/conversations", json=HI)
    at = made.headers["location"]
    added = await acme.post(f"{at}/messages", json=HI)
    read = (await acme.get(at)).json()
    renamed = await acme.patch(at, json={"title": "Greetings"})
    assert made.status_code == 201
    assert (read["title"], renamed.json()["title"]) == ("Hi there", "Greetings")
    assert [one["id"] for one in read["messages"]] == ["1.1", "2.1"]
    assert added.json()["messages"] == read["messages"][1:]
    assert (await acme.delete(at)).status_code == 204
    assert (await acme.get(at)).status_code == 404
    assert (await acme.delete(at)).status_code == 404


async def test_a_list_is_read_page_by_page_the_newest_first(site: Site) -> None:
    acme = await site.caller("acme")
    for number in range(5):
        await acme.post("/conversations", json={"title": str(number)})
        await asyncio.sleep(0.002)  # ids of one millisecond have no order
    titles, cursor = [], ""
    while cursor is not None:
        asked = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await acme.get("/conversations", params=asked)).json()
        titles += [one["title"] for one in page["conversations"]]
        cursor = page["cursor"]
    assert titles == ["4", "3", "2", "1", "0"]


async def test_a_fork_takes_what_was_said_up_to_a_message(site: Site) -> None:
    acme = await site.caller("acme")
    pair = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    at = (await acme.post("/conversations", json={"messages": pair})).headers["location"]
    await acme.post(f"{at}/messages", json={"messages": pair})
    fork = await acme.post(f"{at}/fork", json={"at": "2.1"})
    await acme.post(f"{at}/messages", json=HI)
    read = (await acme.get(fork.headers["location"])).json()
    assert [one["content"] for one in read["messages"]] == ["A", "B", "A"]
    assert read["forked_from"] == f"{at.rpartition('/')[2]}/2.1"
    for missing, status in (("2.3", 404), ("9.1", 404), ("x", 400)):
        assert (await acme.post(f"{at}/fork", json={"at": missing})).status_code == status


async def test_an_export_is_a_file_for_programs_or_for_people(site: Site) -> None:
    acme = await site.caller("acme")
    at = (await acme.post("/conversations", json=HI)).headers["location"]
    whole = await acme.get(f"{at}/export")
    read = await acme.get(f"{at}/export", params={"format": "markdown"})
    shown = (await acme.get(at)).json()
    del shown["earlier"]
    for one in shown["messages"]:
        one["image_data"] = []
    assert whole.json() == shown
    assert whole.headers["content-disposition"].endswith(".json")
    assert read.headers["content-type"] == "text/markdown; charset=utf-8"
    assert read.text.startswith("# Hi there\n\n## User, ")
    assert read.text.endswith("\n\nHi there\n")


async def test_an_export_holds_the_images_in_as_many_parts_as_it_takes(site: Site) -> None:
    acme = await site.caller("acme")
    at = (await acme.post("/conversations")).headers["location"]
    images = ["iVBOR" + "A" * 3_000_000, "/9j/" + "B" * 3_000_000]
    for number, one in enumerate(images, 1):
        said = [Message(role=Role.user, content="Look", images=(one,))]
        await site.store.add(at.rpartition("/")[2], number, said, client="acme", turn=None)
    found: list[str] = []
    url = f"{at}/export"
    while url:
        answer = await acme.get(url)
        assert len(answer.content) < 6_000_000
        found += [data for one in answer.json()["messages"] for data in one["image_data"]]
        url = answer.links.get("next", {}).get("url", "")
    assert found == images
    told = (await acme.get(f"{at}/export", params={"format": "markdown", "after": "1.1"})).text
    assert f"![Image 1](data:image/jpeg;base64,{images[1]})" in told
    with pytest.raises(TooLarge):
        check_readable([Message(role=Role.user, content="Look", images=tuple(images))])


async def test_of_many_who_append_at_once_each_adds_once_or_is_told(site: Site) -> None:
    acme = await site.caller("acme")
    at = (await acme.post("/conversations")).headers["location"]
    answers = await asyncio.gather(*(acme.post(f"{at}/messages", json=HI) for _ in range(10)))
    read = (await acme.get(at)).json()
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {201, 409}
    assert codes.count(201) == len(read["messages"]) >= 1


async def test_a_turn_keeps_others_from_appending_and_adds_once(site: Site) -> None:
    made = await site.store.create("acme")
    said = [Message(role=Role.user, content="x")]
    await site.store.begin_turn(made.id, client="acme", turn="t1")
    acme = await site.caller("acme")
    refused = await acme.post(f"/conversations/{made.id}/messages", json=HI)
    assert (await acme.get(f"/conversations/{made.id}")).json()["answering"]
    for _ in range(2):
        await site.store.add(made.id, 1, said, client="acme", turn="t1")
    await site.store.end_turn(made.id, turn="t1", tokens_a_byte=None)
    assert refused.status_code == 409
    assert not (await acme.get(f"/conversations/{made.id}")).json()["answering"]
    assert len(await site.store.entries(made.id, client="acme")) == 1


async def test_no_route_lets_anybody_else_in(site: Site) -> None:
    acme, stranger = await site.caller("acme"), await site.caller("stranger")
    unscoped = await site.caller("acme", Scope.RUNS)
    at = (await acme.post("/conversations", json=HI)).headers["location"]
    document = (await acme.get("/openapi.json")).json()
    bodies = {"fork": {"at": "1.1"}, "messages": HI, "patch": {"title": "Mine"}}
    tried = 0
    for path, operations in document["paths"].items():
        for method in operations if path.startswith("/conversations/{id}") else ():
            body = bodies.get(path.rpartition("/")[2], bodies.get(method))
            url = path.replace("/conversations/{id}", at)
            answer = await stranger.request(method.upper(), url, json=body)
            refused = await unscoped.request(method.upper(), url, json=body)
            assert (answer.status_code, refused.status_code) == (404, 403), (method, path)
            tried += 1
    assert tried == 6
    assert (await stranger.get("/conversations")).json()["conversations"] == []
    assert len((await acme.get(at)).json()["messages"]) == 1


@pytest.mark.parametrize("at", ["1", "1.0", "01.1", "1.01", "x.1", "1.1 ", "-1.1"])
async def test_a_message_is_named_only_as_it_is_told(site: Site, at: str) -> None:
    async with await site.caller("ada") as ada:
        id = (await ada.post("/conversations", json=HI)).json()["id"]
        answer = await ada.post(f"/conversations/{id}/fork", json={"at": at})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Hi there", "Hi there"),
        ("word " * 20, "word " * 11 + "word…"),
        (
            "https://example.org/" + "x" * 60 + " please read",
            "https://example.org/" + "x" * 40 + "…",
        ),
    ],
)
async def test_a_title_is_the_first_words_even_where_the_first_is_long(
    site: Site, said: str, title: str
) -> None:
    async with await site.caller("ada") as ada:
        messages = [{"role": "user", "content": said}]
        made = await ada.post("/conversations", json={"messages": messages})
    assert made.json()["title"] == title


async def very_long(caller: httpx.AsyncClient) -> tuple[str, list[str]]:
    """A conversation that does not fit into one answer: its path, and what its messages say."""
    # A Function URL takes 6 MB of JSON, in which the answer's own quotes count twice.
    words = [f"#{n} " + "é" * 240_000 for n in range(15)]
    at = str((await caller.post("/conversations")).headers["location"])
    for start in range(0, 15, 5):
        said = [{"role": "user", "content": one} for one in words[start : start + 5]]
        assert (await caller.post(f"{at}/messages", json={"messages": said})).status_code == 201
    return at, words


async def test_what_is_too_long_for_one_answer_is_read_and_exported_in_several(site: Site) -> None:
    acme = await site.caller("acme")
    at, words = await very_long(acme)
    read: list[str] = []
    after: dict[str, str] = {}
    while after is not None:
        answer = await acme.get(at, params=after)
        assert len(json.dumps({"body": answer.text}, ensure_ascii=False).encode()) < 6_000_000
        read += [one["content"] for one in answer.json()["messages"]]
        after = {"after": cursor} if (cursor := answer.json()["cursor"]) else None
    assert read == words
    url, text = f"{at}/export?format=markdown", ""
    while url:
        answer = await acme.get(url)
        text += answer.text
        url = answer.links.get("next", {}).get("url", "")
    assert [text.count(one) for one in words] == [1] * 15
    assert (await acme.get(at, params={"after": "x"})).status_code == 400
    assert (await acme.get(at, params={"after": "99.1"})).json()["messages"] == []


async def test_a_conversation_is_read_back_from_its_end(site: Site) -> None:
    acme = await site.caller("acme")
    at = (await acme.post("/conversations")).headers["location"]
    for start in range(0, 20, 4):  # five entries of four messages
        said = [{"role": "user", "content": str(n)} for n in range(start, start + 4)]
        assert (await acme.post(f"{at}/messages", json={"messages": said})).status_code == 201
    for last in (1, 3, 4, 5, 19, 20, 50):
        pages: list[list[str]] = []
        asked: dict[str, Any] | None = {"last": last}
        while asked is not None:
            found = (await acme.get(at, params=asked)).raise_for_status().json()
            pages.insert(0, [one["content"] for one in found["messages"]])
            earlier = found["earlier"]
            asked = {"last": last, "before": earlier} if earlier else None
        assert all(len(page) == last for page in pages[1:])
        assert [one for page in pages for one in page] == [str(n) for n in range(20)]
    assert len((await acme.get(at, params={"before": "3.1"})).json()["messages"]) == 8
    assert (await acme.get(at, params={"before": "1.1"})).json()["earlier"] is None
    assert (await acme.get(at, params={"before": "x"})).status_code == 400
    assert (await acme.get(at, params={"after": "1.1", "last": 2})).status_code == 422


async def test_the_end_of_a_very_long_conversation_fits_into_an_answer(site: Site) -> None:
    acme = await site.caller("acme")
    at, words = await very_long(acme)
    read: list[str] = []
    asked: dict[str, Any] | None = {"last": 15}
    while asked is not None:
        answer = await acme.get(at, params=asked)
        assert len(json.dumps({"body": answer.text}, ensure_ascii=False).encode()) < 6_000_000
        read = [*(one["content"] for one in answer.json()["messages"]), *read]
        earlier = answer.json()["earlier"]
        asked = {"last": 15, "before": earlier} if earlier else None
    assert read == words
