"""Runs, events, schedules, webhooks and callbacks over HTTP, with real stores behind them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from lambent.admission.decisions import AdmissionConfig
from lambent.admission.gate import Gate
from lambent.admission.keys import KeyStore
from lambent.admission.migrate import migrate
from lambent.bus.delivery import Deliverer
from lambent.bus.events import EventBus, StepEvents, ensure_event_indexes
from lambent.bus.webhooks import WebhookQueue, Webhooks, ensure_webhook_indexes
from lambent.chat.idempotency import IdempotencyKeys
from lambent.clock import SystemClock
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.registry import Registry
from lambent.engine.views import RunView
from lambent.http.authorize import authorize
from lambent.http.callbacks import callbacks_router
from lambent.http.events import events_router
from lambent.http.gateway_app import build_gateway_app
from lambent.http.run_events import RunEvents
from lambent.http.runs import runs_router
from lambent.http.schedules import schedules_router
from lambent.http.webhooks import webhooks_router
from lambent.mongo import Mongo
from lambent.postgres import Postgres
from lambent.schedules.schedules import Schedules
from tests.store.bus_world import SilentNudges


class Site:
    """A gateway, and an engine that is advanced by hand: the nudges go nowhere."""

    def __init__(self, dsn: str, mongo_uri: str, db_name: str) -> None:
        self.clock = clock = SystemClock()
        self.postgres = Postgres(dsn, clock=clock)
        self.mongo = Mongo(mongo_uri, db_name, clock=clock)
        config = EngineConfig(callback_base_url="http://test")
        self.store = MongoStore(self.mongo, clock=clock, config=config)
        self.workflows = _workflows()
        self.engine = WorkflowEngine(
            self.store,
            workflows=self.workflows,
            config=config,
            events=StepEvents(lambda: self.bus),
        )
        nudges = SilentNudges()
        deliverer = Deliverer(
            self.mongo,
            clock=clock,
            runs=self.store.due,
            starts=self.engine,
            webhooks=WebhookQueue(self.mongo, clock=clock),
            nudges=nudges,
            retention=timedelta(days=1),
        )
        self.bus = EventBus(self.mongo, clock=clock, deliverer=deliverer)
        self.keys = KeyStore(self.postgres, clock=clock)
        self.schedules = Schedules(self.mongo, clock=clock)
        self.idempotency = IdempotencyKeys(lambda: self.mongo, clock=clock)
        app = build_gateway_app(
            gate=Gate(self.postgres, clock=clock, config=AdmissionConfig(limit=10_000)),
            clock=clock,
            pings={},
            routers=[
                runs_router(self.engine, authorize, keys=self.idempotency),
                events_router(self.bus, authorize),
                webhooks_router(Webhooks(self.mongo, clock=clock), nudges, authorize),
                schedules_router(
                    self.schedules,
                    clock,
                    authorize,
                    check_input=self.engine.check_input,
                    runs=self._runs,
                ),
                callbacks_router(self.engine.callbacks),
            ],
        )
        self._transport = httpx.ASGITransport(app=cast(Any, app))

    async def _runs(self, ids: Sequence[str], client: str | None) -> list[RunView]:
        return await self.engine.control.named(ids, client=client)

    async def set_up(self) -> None:
        await migrate(self.postgres)
        await self.engine.ensure_indexes()
        await ensure_event_indexes(self.mongo, clock=self.clock)
        await ensure_webhook_indexes(self.mongo, clock=self.clock)
        await self.schedules.ensure_indexes()

    async def caller(self, client: str, *scopes: str) -> httpx.AsyncClient:
        made = await self.keys.create(client, "test", scopes=cast(Any, scopes))
        headers = {"authorization": f"Bearer {made.text}"}
        return httpx.AsyncClient(transport=self._transport, base_url="http://test", headers=headers)

    async def advance(self, run_id: str, times: int = 1) -> None:
        for _ in range(times):
            await self.engine.advance([run_id])

    async def run(self, run_id: str) -> dict[str, Any]:
        found = await self.store.due.collection.find_one({"_id": run_id})
        assert found is not None
        return found

    async def close(self) -> None:
        await self.postgres.close()
        await self.store.close()


@dataclass(frozen=True)
class _Order:
    title: str
    pieces: int = 1


def _workflows() -> Registry:
    made = Registry()

    @made.workflow("greet")
    async def greet(step: Any, input: Any) -> Any:
        """Says hello."""
        return await step.do("hello", lambda: {"hello": input["name"]})

    @made.workflow("approve", on="order.placed")
    async def approve(step: Any, input: Any) -> Any:
        """Waits for a yes."""
        event = await step.wait_for_event("yes", type="order.approved", timeout=600)
        return event.data

    @made.workflow("fragile")
    async def fragile(step: Any, input: Any) -> Any:
        raise ValueError("broken on purpose")

    @made.workflow("fragile", version=2)
    async def still_fragile(step: Any, input: Any) -> Any:
        raise ValueError("broken again")

    @made.workflow("order", on="order.wanted", input=_Order)
    async def order(step: Any, input: Any) -> Any:
        """Gives back what was ordered."""
        return input

    @made.workflow("orders")
    async def orders(step: Any, input: Any) -> Any:
        return await (await step.start("order", input, name="first"))

    @made.workflow("asks")
    async def asks(step: Any, input: Any) -> Any:
        """Hands out a callback and waits for it."""
        callback = await step.callback("approval", timeout=600)
        await step.progress({"url": callback.url})
        return await callback.result()

    return made


@pytest_asyncio.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[Site]:
    made = Site(postgres_dsn, mongo_uri, mongo_db_name)
    await made.set_up()
    yield made
    await made.close()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
async def test_numbers_that_json_has_no_word_for_start_nothing(site: Site, number: str) -> None:
    acme = await site.caller("acme", "runs")
    headers = {"content-type": "application/json"}
    body = f'{{"workflow": "greet", "input": {{"name": [{number}]}}}}'
    said = await acme.post("/runs", content=body, headers=headers)
    assert said.status_code == 422, said.text
    assert "too large for a double" in said.text
    plan = f'{{"name": "n", "cron": "0 0 1 1 *", "workflow": "greet", "input": {number}}}'
    said = await acme.post("/schedules", content=plan, headers=headers)
    assert said.status_code == 422, said.text
    assert (await acme.get("/runs")).json()["runs"] == []


async def test_a_run_is_started_once_for_its_idempotency_key(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    body = {"workflow": "greet", "input": {"name": "Ada"}}
    headers = {"idempotency-key": "k1"}
    started = [await acme.post("/runs", json=body, headers=headers) for _ in range(2)]
    named = await acme.post("/runs", json={**body, "key": "k1"}, headers=headers)
    other = await acme.post("/runs", json={**body, "input": None}, headers=headers)
    both = await acme.post("/runs", json={**body, "key": "k2"}, headers=headers)
    wrong = await acme.post("/runs", json=body, headers={"idempotency-key": "a b"})
    assert {one.json()["id"] for one in (*started, named)} == {started[0].json()["id"]}
    assert [one.status_code for one in (other, both, wrong)] == [422, 422, 422]


async def test_an_input_that_does_not_fit_starts_nothing_and_is_told_by_field(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    wrong = {"workflow": "order", "input": {"pieces": "2"}}
    plan = {"cron": "0 0 1 1 *", "workflow": "order"}
    refused = [
        await acme.post("/runs", json=wrong),
        await acme.post("/schedules", json={"name": "n", **plan, "input": {"pieces": "2"}}),
    ]
    for said in refused:
        assert said.status_code == 422, said.text
        told = {one["field"]: one["message"] for one in said.json()["errors"]}
        assert told.keys() == {"input.title", "input.pieces"}
        assert told["input.pieces"] == "Input should be a valid integer"
    made = await acme.post("/schedules", json={"name": "n", **plan, "input": {"title": "nut"}})
    assert made.status_code == 201, made.text
    said = await acme.put(f"/schedules/{made.json()['id']}", json={**plan, "input": 3})
    assert (said.status_code, said.json()["errors"][0]["field"]) == (422, "input")
    later = {"name": "later", "cron": "0 0 1 1 *", "workflow": "not.yet", "input": 3}
    assert (await acme.post("/schedules", json=later)).status_code == 201
    assert (await acme.get("/runs")).json()["runs"] == []


async def test_a_schedule_knows_its_runs_and_who_paused_it(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    admin = await site.caller("ops", "admin")
    plan = {"name": "n", "cron": "0 0 1 1 *", "workflow": "greet", "input": {"name": "Ada"}}
    path = f"/schedules/{(await acme.post('/schedules', json=plan)).json()['id']}"
    assert (await acme.get(f"{path}/runs")).json() == {"runs": []}
    begun = [
        (await acme.post("/runs", json={"workflow": "greet", "input": {"name": "A"}})).json()["id"]
        for _ in range(2)
    ]
    recorded = {"recent": [*begun, "gone"], "last_run": "gone"}
    await site.mongo.db["schedules"].update_one({}, {"$set": recorded})
    listed = (await acme.get(f"{path}/runs")).json()["runs"]
    assert [one["id"] for one in listed] == begun[::-1]
    assert (await (await site.caller("other", "runs")).get(f"{path}/runs")).status_code == 404
    await admin.post(f"{path}/pause")
    assert (await acme.get(path)).json()["paused_by"] == "an operator"
    assert (await admin.get(path)).json()["paused_by"] == "test"
    assert (await admin.post(f"{path}/resume")).json()["paused_by"] is None
    assert (await acme.post(f"{path}/pause")).json()["paused_by"] == "test"


async def test_a_webhook_tells_who_disabled_it(site: Site) -> None:
    acme = await site.caller("acme", "events")
    hook = {"url": "https://example.com/x", "types": ["*"]}
    path = f"/webhooks/{(await acme.post('/webhooks', json=hook)).json()['id']}"
    off = (await acme.patch(path, json={"status": "disabled"})).json()
    assert (off["disabled_by"], off["disabled_at"] is not None) == ("test", True)
    same = (await acme.patch(path, json={"description": "x"})).json()
    assert (same["disabled_by"], same["disabled_at"]) == ("test", off["disabled_at"])
    on = (await acme.patch(path, json={"status": "active"})).json()
    assert (on["disabled_by"], on["disabled_at"]) == (None, None)


async def test_what_fits_reaches_the_workflow_as_it_was_sent(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    sent = {"title": "nut", "more": [1, 2.5, None]}
    run = (await acme.post("/runs", json={"workflow": "order", "input": sent})).json()["id"]
    await site.advance(run)
    assert (await acme.get(f"/runs/{run}")).json()["output"] == sent


async def test_an_event_starts_its_workflow_with_what_events_bring(site: Site) -> None:
    acme = await site.caller("acme", "runs", "events")
    event = {"specversion": "1.0", "id": "e", "source": "/s", "type": "order.wanted"}
    kind = {"content-type": "application/cloudevents+json"}
    said = await acme.post("/events", json=event, headers=kind)
    assert said.status_code == 202, said.text
    runs = (await acme.get("/runs")).json()["runs"]
    assert [(one["workflow"], one["input"]["type"]) for one in runs] == [("order", "order.wanted")]


async def test_a_start_that_is_sent_once_more_is_told_of_its_run_whatever_the_schema_became(
    site: Site,
) -> None:
    acme = await site.caller("acme", "runs")
    body = {"workflow": "order", "input": {"title": 3}, "key": "k"}
    assert (await acme.post("/runs", json=body)).status_code == 422
    before = await site.engine.start("order", {"title": 3}, client="acme", key="k")
    again = await acme.post("/runs", json=body)
    assert (again.status_code, again.json()["id"]) == (202, before.run["_id"])


async def test_a_child_whose_input_does_not_fit_fails_its_parent_by_name(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "orders", "input": {}})).json()["id"]
    await site.advance(run)
    failed = (await acme.get(f"/runs/{run}")).json()
    assert failed["status"] == "failed"
    assert "The child 'first': The input is not what order" in failed["error"]["message"]
    assert "input.title: Field required." in failed["error"]["message"]


async def test_what_goes_on_of_one_version_is_listed_and_cancelled_alone(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    body = {"workflow": "fragile", "input": {}}
    old, other = [
        (await acme.post("/runs", json={**body, "version": version})).json()["id"]
        for version in (1, 2)
    ]
    asked = {"workflow": "fragile", "version": 1, "status": "going_on"}
    listed = (await acme.get("/runs", params=asked)).json()["runs"]
    assert [one["id"] for one in listed] == [old]
    said = await acme.get("/runs", params={"version": 1})
    assert (said.status_code, said.json()["errors"][0]["field"]) == (422, "version")
    assert (await acme.post("/runs/cancel", json=asked)).json() == {"count": 1}
    await site.advance(old)
    listed = (await acme.get("/runs", params={**asked, "version": 2})).json()["runs"]
    assert [one["id"] for one in listed] == [other]
    assert (await acme.get("/runs", params=asked)).json()["runs"] == []
    failed = await acme.post("/runs/retry", json={"status": "going_on"})
    assert failed.status_code == 400


async def test_a_run_is_started_once_for_its_key_and_read_to_its_end(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    body = {"workflow": "greet", "input": {"name": "Ada"}, "key": "k1"}
    first = await acme.post("/runs", json=body)
    assert first.status_code == 202, first.text
    run = first.json()
    assert (run["status"], run["input"], run["version"]) == ("pending", {"name": "Ada"}, 1)
    assert first.headers["location"] == f"/runs/{run['id']}"
    assert (await acme.post("/runs", json=body)).json()["id"] == run["id"]
    other = await acme.post("/runs", json=body | {"input": {"name": "Bob"}})
    assert other.status_code == 409
    await site.advance(run["id"])
    done = (await acme.get(f"/runs/{run['id']}")).json()
    assert (done["status"], done["output"]) == ("completed", {"hello": "Ada"})
    steps = (await acme.get(f"/runs/{run['id']}/steps")).json()["steps"]
    assert next((one["kind"], one["output"]) for one in steps) == ("do", {"hello": "Ada"})


async def test_commands_that_the_state_does_not_allow_name_the_state(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "greet", "input": {"name": "A"}})).json()
    await site.advance(run["id"])
    for verb in ("cancel", "pause", "resume", "retry"):
        answer = await acme.post(f"/runs/{run['id']}/{verb}")
        assert answer.status_code == 409, verb
        assert answer.json()["status"] in (409, "completed")
    assert (await acme.delete(f"/runs/{run['id']}")).status_code == 204
    assert (await acme.get(f"/runs/{run['id']}")).status_code == 404


async def test_a_failed_run_is_retried_and_restarted(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "fragile"})).json()
    await site.advance(run["id"])
    failed = (await acme.get(f"/runs/{run['id']}")).json()
    assert (failed["status"], failed["error"]["type"]) == ("failed", "ValueError")
    assert (await acme.post(f"/runs/{run['id']}/retry")).status_code == 202
    await site.advance(run["id"])
    assert (await acme.post(f"/runs/{run['id']}/restart", json={})).status_code == 202
    counted = await acme.post("/runs/cancel", json={"workflow": "fragile"})
    assert counted.json() == {"count": 1}


async def test_a_command_with_a_key_is_done_once(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "fragile"})).json()
    await site.advance(run["id"])
    place, key = f"/runs/{run['id']}/restart", {"idempotency-key": "again"}
    told = await asyncio.gather(*[acme.post(place, json={}, headers=key) for _ in range(8)])
    assert {one.status_code for one in told} == {202}
    assert len({one.text for one in told}) == 1
    assert sum("idempotency-replayed" in one.headers for one in told) == 7
    assert (await site.run(run["id"]))["epoch"] == 1
    await site.advance(run["id"])
    late = await acme.post(place, json={}, headers=key)
    assert (late.status_code, late.text) == (202, told[0].text)
    assert (await site.run(run["id"]))["epoch"] == 1
    other = await acme.post(place, json={"step": "call"}, headers=key)
    assert other.status_code == 422
    elsewhere = await acme.post(f"/runs/{run['id']}/retry", headers=key)
    assert elsewhere.status_code == 422
    for verb, body in (("retry", {"workflow": "fragile"}), ("cancel", {"workflow": "fragile"})):
        many = [
            await acme.post(f"/runs/{verb}", json=body, headers={"idempotency-key": verb})
            for _ in range(2)
        ]
        assert [one.json() for one in many] == [{"count": 1}] * 2
        assert "idempotency-replayed" in many[1].headers


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry", "restart"])
async def test_a_command_whose_asker_died_before_it_was_told_is_done_once(
    site: Site, verb: str
) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "fragile"})).json()["id"]
    if verb in ("retry", "restart"):
        await site.advance(run)
    if verb == "resume":
        await acme.post(f"/runs/{run}/pause")
    command = getattr(site.engine.control, verb)
    await command(run, client="acme", by="token")
    before = await site.run(run)
    if verb in ("retry", "restart"):
        await site.advance(run)  # it goes on, and fails again
        before = await site.run(run)
        assert before["status"] == "failed"
    await command(run, client="acme", by="token")
    assert await site.run(run) == before
    # Also where it looked before the other had done it: the update itself tells.
    ask = {"cancel": "ask_cancel", "pause": "ask_pause", "resume": "resume"}.get(verb)
    if ask is not None:
        asks = getattr(site.engine.control._transitions, ask)
        assert await asks(run, by="token") is False
        assert await site.run(run) == before


async def test_runs_belong_to_their_client_and_admins_see_all(site: Site) -> None:
    acme, umbrella = [await site.caller(name, "runs") for name in ("acme", "umbrella")]
    admin = await site.caller("ops", "admin")
    run = (await acme.post("/runs", json={"workflow": "greet", "input": {"name": "A"}})).json()
    assert (await umbrella.get(f"/runs/{run['id']}")).status_code == 404
    assert (await umbrella.post(f"/runs/{run['id']}/cancel")).status_code == 404
    assert (await umbrella.get("/runs")).json()["runs"] == []
    listed = await umbrella.get("/runs", params={"client": "acme"})
    assert listed.json()["runs"] == [], "a filter reaches no further than the key"
    assert (await admin.get(f"/runs/{run['id']}")).status_code == 200
    assert len((await admin.get("/runs")).json()["runs"]) == 1
    chat_only = await site.caller("acme", "chat")
    assert (await chat_only.get("/runs")).status_code == 403
    assert (await chat_only.post("/events", json={})).status_code == 403


async def test_wrong_bodies_name_their_fields(site: Site) -> None:
    acme = await site.caller("acme", "runs", "events")
    answer = await acme.post("/runs", json={"workflow": "", "priority": 7, "extra": 1})
    assert answer.status_code == 422
    fields = {one["field"] for one in answer.json()["errors"]}
    assert fields == {"workflow", "priority", "extra"}
    assert (await acme.post("/runs", json={"workflow": "nobody"})).status_code == 404
    event = await acme.post("/events", json={"specversion": "1.0", "id": "1"})
    assert event.status_code == 422
    assert {one["field"] for one in event.json()["errors"]} == {"source", "type"}
    reserved = {"specversion": "1.0", "id": "1", "source": "x", "type": "lambent.callback"}
    assert (await acme.post("/events", json=reserved)).status_code == 422


async def test_an_event_starts_a_workflow_and_another_ends_its_wait(site: Site) -> None:
    acme = await site.caller("acme", "runs", "events")
    placed = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed"}
    answer = await acme.post("/events", json=placed)
    assert answer.status_code == 202, answer.text
    [run] = (await acme.get("/runs", params={"workflow": "approve"})).json()["runs"]
    await site.advance(run["id"])
    waiting = (await acme.get(f"/runs/{run['id']}")).json()
    assert waiting["waits"][0]["type"] == "order.approved"
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "2",
        "ce-source": "/shop",
        "ce-type": "order.approved",
        "content-type": "application/json",
    }
    sent = await acme.post("/events", content=b'{"by": "Ada"}', headers=headers)
    await site.advance(run["id"])
    done = (await acme.get(f"/runs/{run['id']}")).json()
    assert (done["status"], done["output"]) == ("completed", {"by": "Ada"})
    key = sent.json()["events"][0]["key"]
    assert (await acme.get(f"/events/{key}")).json()["event"]["data"] == {"by": "Ada"}
    assert (await acme.post(f"/events/{key}/replay")).status_code == 202


async def test_a_batch_of_events_answers_for_each_and_marks_duplicates(site: Site) -> None:
    acme = await site.caller("acme", "events")
    batch = [
        {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t"}
        for number in (1, 2, 1)
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await acme.post("/events", content=json.dumps(batch), headers=headers)
    assert [one["duplicate"] for one in answer.json()["events"]] == [False, False, True]
    page = (await acme.get("/events", params={"limit": 1})).json()
    assert page["cursor"] is not None
    rest = (await acme.get("/events", params={"cursor": page["cursor"]})).json()
    assert (len(rest["events"]), rest["cursor"]) == (1, None)


async def test_schedules_are_made_paused_resumed_previewed(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    body = {"name": "n", "cron": "0 7 * * *", "timezone": "Europe/Berlin", "workflow": "greet"}
    made = (await acme.post("/schedules", json=body | {"input": {"name": "A"}})).json()
    assert (made["status"], made["input"]) == ("active", {"name": "A"})
    assert (await acme.post("/schedules", json=body)).status_code == 409
    wrong = await acme.post("/schedules", json=body | {"name": "m", "cron": "nonsense"})
    assert wrong.status_code == 422
    paused = (await acme.post(f"/schedules/{made['id']}/pause")).json()
    assert (paused["status"], paused["next_at"]) == ("paused", None)
    assert (await acme.post(f"/schedules/{made['id']}/pause")).status_code == 409
    assert (await acme.post(f"/schedules/{made['id']}/resume")).json()["status"] == "active"
    preview = await acme.get("/schedules/preview", params={"cron": "@daily", "count": 3})
    assert len(preview.json()["ticks"]) == 3
    assert (await acme.delete(f"/schedules/{made['id']}")).status_code == 204


async def test_webhooks_are_made_changed_rotated_and_their_secret_shown_once(site: Site) -> None:
    acme = await site.caller("acme", "events")
    body = {"url": "https://example.com/hook", "types": ["order.*"]}
    made = (await acme.post("/webhooks", json=body)).json()
    assert made["secret"].startswith("whsec_")
    assert "secret" not in (await acme.get(f"/webhooks/{made['id']}")).json()
    rotated = (await acme.post(f"/webhooks/{made['id']}/rotate")).json()
    assert rotated["secret"] != made["secret"]
    off = await acme.patch(f"/webhooks/{made['id']}", json={"status": "disabled"})
    assert (off.json()["status"], off.json()["types"]) == ("disabled", ["order.*"])
    for url in ("http://example.com/", "https://169.254.169.254/", "https://[::1]/"):
        refused = await acme.post("/webhooks", json=body | {"url": url})
        assert refused.status_code == 422, url
    umbrella = await site.caller("umbrella", "events")
    assert (await umbrella.delete(f"/webhooks/{made['id']}")).status_code == 404


async def test_a_callback_is_answered_once_without_a_key(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "asks"})).json()
    await site.advance(run["id"])
    shown = (await acme.get(f"/runs/{run['id']}")).json()
    path = shown["progress"]["value"]["url"].removeprefix("http://test")
    async with httpx.AsyncClient(transport=site._transport, base_url="http://test") as anyone:
        assert (await anyone.post("/callbacks/nonsense", json={})).status_code == 404
        answered = await anyone.post(path, json={"value": {"approved": True}})
        assert answered.status_code == 202, answered.text
        assert (await anyone.post(path, json={"value": 2})).status_code == 410
    await site.advance(run["id"])
    done = (await acme.get(f"/runs/{run['id']}")).json()
    assert (done["status"], done["output"]) == ("completed", {"approved": True})


async def frames_of(site: Site, run_id: str, last_event_id: str = "") -> list[str]:
    """What a client of the event stream reads until it ends."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.sleep(60)

    app = RunEvents(
        site.engine.control,
        run_id,
        client="acme",
        last_event_id=last_event_id,
        keep_alive_s=10,
        clock=site.clock,
        longest_s=600,
        headers={},
    )
    await app({"type": "http"}, receive, cast(Any, send))
    text = b"".join(one.get("body", b"") for one in sent).decode()
    return [one for one in text.split("\n\n") if one]


async def test_a_watcher_sees_each_state_and_resumes_without_repeats(site: Site) -> None:
    acme = await site.caller("acme", "runs")
    run = (await acme.post("/runs", json={"workflow": "greet", "input": {"name": "A"}})).json()
    watching = asyncio.create_task(frames_of(site, run["id"]))
    await asyncio.sleep(0.3)
    await site.advance(run["id"])
    frames = await watching
    assert '"status": "pending"' in frames[0]
    assert '"output": {"hello": "A"}' in frames[-2]
    assert frames[-1] == "data: [DONE]"
    last = frames[-2].split("\n")[0].removeprefix("id: ")
    assert await frames_of(site, run["id"], last) == ["data: [DONE]"]


async def test_the_description_lists_every_route_with_examples(site: Site) -> None:
    admin = await site.caller("ops", "admin")
    document = (await admin.get("/openapi.json")).json()
    wanted: Sequence[str] = ("/runs", "/workflows", "/events", "/schedules", "/webhooks")
    assert set(wanted) | {"/callbacks/{token}", "/runs/{run_id}/steps"} <= set(document["paths"])
    content = document["paths"]["/events"]["post"]["requestBody"]["content"]
    assert "application/cloudevents-batch+json" in content
    named = (await admin.get("/workflows")).json()["workflows"]
    [greet] = [one for one in named if one["name"] == "greet"]
    assert greet | {"input_schema": None} == {
        "name": "greet",
        "version": 1,
        "on": [],
        "priority": 1,
        "description": "Says hello.",
        "input_schema": None,
        "internal": False,
    }
