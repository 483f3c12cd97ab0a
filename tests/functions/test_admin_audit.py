"""The record of what admins did, and that a read-only key has nothing to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lambent.admission.decisions import Scope
from lambent.admission.statements import statement
from lambent.http.admin.actions import ACTIONS
from lambent.ids import ulid_floor
from tests.functions.admin_site import HERE, AdminSite, admin_site


@pytest.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[AdminSite]:
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name) as made:
        yield made


async def recorded(site: AdminSite, **wanted: str) -> list[Any]:
    return list((await site.parts.audit.find(**wanted)).entries)


async def test_a_change_by_api_is_recorded_with_who_what_and_how_it_ended(site: AdminSite) -> None:
    run = await site.run()
    async with site.client(await site.key(name="ada's laptop")) as client:
        await client.post(f"/runs/{run}/cancel")
        await client.post("/runs/none/cancel")
    refused, done = await recorded(site)
    assert (done.action, done.target, done.via, done.outcome) == ("cancel_run", run, "api", 202)
    assert done.key_name == "ada's laptop"
    assert (refused.target, refused.outcome) == ("none", 404)


async def test_a_change_by_page_is_recorded_as_such(site: AdminSite) -> None:
    run = await site.run()
    browser = await site.browser()
    await browser.do("do/run-cancel", run=run)
    assert [(one.action, one.via) for one in await recorded(site)] == [
        ("cancel_run", "page"),
        ("sign_in", "page"),
    ]


async def test_a_made_key_is_recorded_by_its_id_and_never_by_its_secret(site: AdminSite) -> None:
    async with site.client(await site.key()) as client:
        body = {"name": "k", "client": "c", "scopes": ["chat"]}
        made = (await client.post("/keys", json=body)).json()
        [entry] = await recorded(site, action="create_key")
        assert entry.target == made["id"]
        listed = (await client.get("/audit", params={"target": made["id"]})).text
    assert made["id"] in listed
    assert made["key"].split("_")[2] not in listed


async def test_what_was_made_is_recorded_by_its_id_and_what_was_asked_in_bulk_by_its_filter(
    site: AdminSite,
) -> None:
    waiting = await site.run()
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "x.y"}
    async with site.client(await site.key()) as client:

        async def made(path: str, body: Any, field: str = "id") -> Any:
            answer = await client.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()[field]

        run = await made("/runs", {"workflow": "news.digest", "input": {}})
        plan = {"name": "s", "cron": "0 7 * * *", "workflow": "news.digest"}
        schedule = await made("/schedules", plan)
        webhook = await made("/webhooks", {"url": "https://x.example/", "types": ["*"]})
        talk = await made("/conversations", {})
        kept = await made("/events", event, "events")
        batch = await made("/events", [{**event, "id": "2"}, {**event, "id": "3"}], "events")
        count = await made("/runs/cancel", {"workflow": "news.digest"}, "count")
        assert (count, (await client.post("/runs/retry", json={})).status_code) == (2, 400)
        await client.post("/admin/models/pull", json={"model": "llama3.2:1b"})
    targets = {one.action: one.target for one in reversed(await recorded(site))}
    assert targets == {
        "start_run": run, "create_schedule": schedule, "create_webhook": webhook,
        "create_conversation": talk, "publish_events": f"{batch[0]['key']} and 1 more",
        "cancel_runs": "workflow=news.digest runs=2", "retry_runs": "/runs",
        "pull_model": "llama3.2:1b",
    }  # fmt: skip
    [single] = await recorded(site, target=kept[0]["key"])
    assert (single.action, waiting != run) == ("publish_events", True)


async def test_what_cannot_be_recorded_is_not_done(site: AdminSite) -> None:
    run = await site.run()
    await site.parts.postgres.fetch(b"ALTER TABLE lambent.audit RENAME TO gone")
    async with site.client(await site.key()) as client:
        assert (await client.post(f"/runs/{run}/cancel")).status_code >= 500
    assert (await site.parts.engine.control.get(run, client=None)).control is None


async def test_the_record_is_paged_and_filtered(site: AdminSite) -> None:
    async with site.client(await site.key()) as client:
        for number in range(5):
            await client.post(f"/runs/r{number}/pause")
        first = (await client.get("/audit", params={"limit": 3})).json()
        rest = (await client.get("/audit", params={"cursor": first["cursor"]})).json()
        one = (await client.get("/audit", params={"target": "r2", "action": "pause_run"})).json()
    targets = [entry["target"] for entry in [*first["entries"], *rest["entries"]]]
    assert targets == ["r4", "r3", "r2", "r1", "r0"]
    assert len(one["entries"]) == 1


async def test_a_span_of_time_is_a_range_of_the_records_ids(site: AdminSite) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    insert = (
        "INSERT INTO lambent.audit (id, client, action, target, via, address, request_id)"
        " VALUES (%(id)s, 'ops', 'pause_run', %(target)s, 'api', '-', '-')"
    )
    for hour in range(-3, 4):
        at = noon + timedelta(hours=hour)
        values = {"id": f"{ulid_floor(at)}{hour + 3:016d}", "target": f"r{hour}"}
        await site.parts.postgres.fetch(insert, values)
    asked = {"from": "2026-05-01T11:00:00Z", "until": "2026-05-01T14:00:00+00:00", "limit": "2"}
    async with site.client(await site.key(Scope.ADMIN_READ)) as client:
        first = (await client.get("/audit", params=asked)).json()
        rest = (await client.get("/audit", params={**asked, "cursor": first["cursor"]})).json()
        assert (await client.get("/audit", params={"from": "noon"})).status_code == 422
    targets = [one["target"] for page in (first, rest) for one in page["entries"]]
    assert (targets, rest["cursor"]) == (["r1", "r0", "r-1"], None)
    page = await (await site.browser()).get(
        "/admin/audit?from=2026-05-01T13:00&until=2026-05-01T14:00"
    )
    assert [f">{one}<" in page.text for one in ("r0", "r1", "r2")] == [False, True, False]


async def test_the_record_of_a_span_is_read_by_an_index(site: AdminSite) -> None:
    fill = (
        "INSERT INTO lambent.audit (id, client, action, target, via, address, request_id)"
        " SELECT lpad(n::text, 10, '0') || repeat('0', 16), 'ops', 'pause', '-', 'api', '-', '-'"
        " FROM generate_series(1, 20000) AS n"
    )
    await site.parts.postgres.fetch(fill)
    await site.parts.postgres.fetch("ANALYZE lambent.audit")
    wanted: dict[str, Any] = {"key_id": None, "action": None, "target": None, "limit": 51}
    wanted |= {"first": "0000001000", "before": "0000001100"}
    asked = b"EXPLAIN (ANALYZE, BUFFERS OFF) " + statement("audit_list")
    plan = "\n".join(str(row[0]) for row in await site.parts.postgres.fetch(asked, wanted))
    assert "Index Scan Backward using audit_pkey" in plan
    assert "Seq Scan" not in plan
    assert "Rows Removed by Filter" not in plan


async def test_a_read_only_key_can_change_nothing_by_any_route(site: AdminSite) -> None:
    async with site.client(await site.key(Scope.ADMIN_READ)) as client:
        document = (await client.get("/openapi.json")).json()
        tried = 0
        for path, item in document["paths"].items():
            # The token in a callback's address is its own right; a chat is refused by its scope.
            if path.startswith(("/callbacks", "/chat", "/v1")):
                continue
            for method in item.keys() & {"post", "put", "patch", "delete"}:
                where = path.replace("{", "").replace("}", "")
                answer = await client.request(method, where, json=_body(document, item[method]))
                assert answer.status_code == 403, (method, path, answer.status_code)
                tried += 1
    assert tried > 20


async def test_a_read_only_session_can_change_nothing_by_any_form(site: AdminSite) -> None:
    run = await site.run()
    browser = await site.browser(Scope.ADMIN_READ)
    for action in ACTIONS:
        answer = await browser.do(f"do/{action}", run=run, command="cancel", name="x", key="admin")
        assert answer.status_code == 403, action
    assert (await site.parts.engine.control.get(run, client=None)).control is None
    assert await recorded(site, action="cancel_run") == []


@pytest.mark.parametrize("path", ["runs", "keys", "events", "schedules", "webhooks", "workflows"])
async def test_a_read_only_session_sees_no_form_that_changes_anything(
    site: AdminSite, path: str
) -> None:
    page = await (await site.browser(Scope.ADMIN_READ)).get(f"/admin/{path}")
    assert page.status_code == 200
    assert "/admin/do/" not in page.text


async def test_a_read_only_session_gets_a_token_that_only_reads(site: AdminSite) -> None:
    run = await site.run()
    browser = await site.browser(Scope.ADMIN_READ)
    token = (await browser.get("/admin/session/token")).json()["token"]
    async with site.client(token) as client:
        assert (await client.get(f"/runs/{run}")).status_code == 200
        assert (await client.post(f"/runs/{run}/cancel")).status_code == 403


async def test_the_token_of_a_page_never_administers(site: AdminSite) -> None:
    browser = await site.browser()
    answer = await browser.client.get("/admin/session/token", headers={"origin": HERE})
    async with site.client(answer.json()["token"]) as client:
        assert (await client.get("/keys")).status_code == 200
        body = {"name": "k", "client": "c", "scopes": ["admin"]}
        assert (await client.post("/keys", json=body)).status_code == 403
    async with site.client(answer.json()["token"][:-2]) as client:
        assert (await client.get("/keys")).status_code == 401


def _body(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    """A body that fits, so that only the scope can be what refuses it."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        schema = media["schema"]
        name = schema.get("$ref", "").rpartition("/")[2]
        parts = document["components"]["schemas"].get(name, schema)
        return {one: _value(parts["properties"][one]) for one in parts.get("required", ())}
    return None


def _value(schema: dict[str, Any]) -> Any:
    if "examples" in schema:
        return schema["examples"][0]
    return {"array": [], "integer": 1, "object": {}}.get(str(schema.get("type")), "x")
