"""Each body that the API's description shows is taken by the route that it stands at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx
import pytest

from lambent import set_up
from lambent.engine.model import Status
from local.benches.dashboard import finished_step
from local.services import ScriptedModel
from tests.functions.admin_site import AdminSite, admin_site
from tests.unit.api_document import examples_of, operations
from tests.unit.chat_site import chat_site

# For a route with ids: makes what they name and gives the address.
Prepare = Callable[[AdminSite, httpx.AsyncClient, dict[str, Any]], Awaitable[str]]
# Nothing waits behind these addresses: their bodies are read, and then nobody is found.
NOBODY: Final = {
    "/callbacks/{token}", "/callbacks/{token}/fail", "/runs/{run_id}/approvals/{call_id}",
}  # fmt: skip
# What the chat function serves.
CHATS: Final = {"/chat", "/chat/stream", "/chat/streams/{id}/leave"}


@pytest.fixture
async def site(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> AsyncIterator[AdminSite]:
    host = {"OLLAMA_HOST": scripted_model.host}
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name, **host) as made:
        await set_up._ensure_indexes(made.parts)  # type: ignore[arg-type]
        yield made


def made_by(path: str, *rest: str) -> Prepare:
    """What the first example of `POST path` makes, and a path from there."""

    async def prepare(site: AdminSite, api: httpx.AsyncClient, document: dict[str, Any]) -> str:
        media = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body = {**examples_of(document, media)[0]}
        if "name" in body:
            body["name"] += "-2"  # beside the one that the example itself makes
        answer = await api.post(path, json=body)
        assert answer.is_success, answer.text
        return "/".join([path, answer.json()["id"], *rest])

    return prepare


def run_that_is(status: Status, rest: str) -> Prepare:
    async def prepare(site: AdminSite, api: httpx.AsyncClient, document: dict[str, Any]) -> str:
        run, db = await site.run(), site.parts.mongo.db
        await db["runs"].update_one({"_id": run}, {"$set": {"status": status.value}})
        step = finished_step(run, 0, since=site.parts.clock.now())
        await db["steps"].insert_one({**step, "_id": f"{run}/0/fetch", "key": "fetch"})
        return f"/runs/{run}/{rest}"

    return prepare


async def _conversation(site: AdminSite, api: httpx.AsyncClient, document: dict[str, Any]) -> str:
    whole = await made_by("/conversations")(site, api, document)
    said = [{"role": "user", "content": "Why?"}]
    assert (await api.post(f"{whole}/messages", json={"messages": said})).is_success
    return whole


async def _fork(site: AdminSite, api: httpx.AsyncClient, document: dict[str, Any]) -> str:
    return f"{await _conversation(site, api, document)}/fork"


async def _host(site: AdminSite, api: httpx.AsyncClient, document: dict[str, Any]) -> str:
    host = (await api.get("/admin/breakers")).json()["hosts"][0]["host"]
    return f"/admin/breakers/{host}/trip"


async def _budgets(site: AdminSite, api: httpx.AsyncClient, document: dict[str, Any]) -> str:
    return "/budgets/client/acme"


PREPARED: Final[dict[str, Prepare]] = {
    "/keys/{key_id}": made_by("/keys"),
    "/keys/{key_id}/rotate": made_by("/keys", "rotate"),
    "/runs/{run_id}/resume": run_that_is(Status.PAUSED, "resume"),
    "/runs/{run_id}/restart": run_that_is(Status.FAILED, "restart"),
    "/schedules/{schedule_id}": made_by("/schedules"),
    "/webhooks/{webhook_id}": made_by("/webhooks"),
    "/conversations/{id}": _conversation,
    "/conversations/{id}/fork": _fork,
    "/conversations/{id}/messages": made_by("/conversations", "messages"),
    "/admin/breakers/{host}/trip": _host,
    "/budgets/{kind}/{owner}": _budgets,
}


async def test_every_example_of_a_body_is_taken_by_its_route(site: AdminSite) -> None:
    async with site.client(await site.key()) as api:
        document = (await api.get("/openapi.json")).json()
        for method, path, described in operations(document):
            if path in CHATS:
                continue
            for kind, media in described.get("requestBody", {}).get("content", {}).items():
                for example in examples_of(document, media):
                    where = path.replace("{", "no-").replace("}", "")
                    if "{" in path and path not in NOBODY:
                        where = await PREPARED[path](site, api, document)
                    headers = {"content-type": kind}
                    answer = await api.request(
                        method, where, content=json.dumps(example), headers=headers
                    )
                    good = {404} if path in NOBODY else {*map(int, described["responses"])}
                    assert answer.status_code in good - {409, 422}, (method, path, answer.text)


async def test_what_examples_start_is_deployed_and_takes_their_input(site: AdminSite) -> None:
    async with site.client(await site.key()) as api:
        document = (await api.get("/openapi.json")).json()
        deployed = {one["name"]: one for one in (await api.get("/workflows")).json()["workflows"]}
    bodies = [
        example
        for _, _, described in operations(document)
        for media in described.get("requestBody", {}).get("content", {}).values()
        for example in examples_of(document, media)
        if isinstance(example, dict) and "workflow" in example
    ]
    assert len(bodies) >= 4
    for body in bodies:
        takes = deployed[body["workflow"]]["input_schema"]["properties"]
        assert body.get("input", {}).keys() <= takes.keys(), body


async def test_every_example_of_a_chat_is_answered(
    postgres_dsn: str, scripted_model: ScriptedModel, site: AdminSite
) -> None:
    async with site.client() as api:
        paths = (await api.get("/openapi.json")).json()["paths"]
    async with chat_site(postgres_dsn, scripted_model.host) as chats, chats.client() as client:
        for path in ("/chat", "/chat/stream"):
            media = paths[path]["post"]["requestBody"]["content"]["application/json"]
            answer = await client.post(path, json=media["example"])
            assert answer.status_code == 200, answer.text
        shown = paths["/chat"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        answer = await client.post("/chat", json=media["example"])
        assert answer.json().keys() == shown.keys()
        listed = paths["/agents"]["get"]["responses"]["200"]["content"]["application/json"]
        agents = (await client.get("/agents")).json()["agents"]
        assert agents[0].keys() == listed["example"]["agents"][0].keys()
