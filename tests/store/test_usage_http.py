"""Usage and budgets over HTTP: who sees whose, as JSON and as CSV, and how budgets are set."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from lambent.admission.decisions import AdmissionRequest, Outcome, Scope
from lambent.admission.migrate import migrate
from lambent.admission.usage import ModelUse, Payer, TurnUse
from lambent.app import Platform
from lambent.http.gateway_app import build_gateway_app
from lambent.http.gateway_sections import gateway_sections
from lambent.settings import load_settings


@dataclass(frozen=True)
class Office:
    parts: Platform
    http: httpx.AsyncClient
    keys: dict[str, Any]

    async def get(self, who: str, path: str, **more: Any) -> httpx.Response:
        return await self.ask("GET", who, path, **more)

    async def ask(self, method: str, who: str, path: str, **more: Any) -> httpx.Response:
        sent = {"authorization": f"Bearer {self.keys[who].text}", **more.pop("headers", {})}
        return await self.http.request(method, path, headers=sent, **more)

    async def hold_a_slot(self, who: str, host: str) -> Any:
        asked = AdmissionRequest(credential=self.keys[who].text, scope=None, host=host, slot=True)
        return await self.parts.gate.admit(asked)

    async def fail_once(self, who: str, host: str) -> None:
        held = await self.hold_a_slot(who, host)
        await self.parts.gate.finish(held.grant, Outcome.FAILURE)

    async def spend(self, who: str, tokens: int, *, agent: str = "chat", model: str = "m") -> None:
        key = self.keys[who].key
        use = ModelUse(
            model=model, requests=1, broken=0, prompt_tokens=0, completion_tokens=tokens,
            estimated_tokens=0, model_s=1.0,
        )  # fmt: skip
        payer = Payer(client=key.client, key_id=key.id, agent=agent)
        turn = f"{who}-{tokens}-{agent}-{model}"
        assert await self.parts.gate.book(TurnUse(turn=turn, seq=1, payer=payer, models=(use,)))


@asynccontextmanager
async def office(dsn: str, **environ: str) -> AsyncIterator[Office]:
    settings = {"MONGO_URI": "mongodb://h", "POSTGRES_DSN": dsn, **environ}
    parts = Platform(load_settings(settings))
    await migrate(parts.postgres)
    wanted = {"ann": Scope.CHAT, "bob": Scope.CHAT, "admin": Scope.ADMIN, "eye": Scope.ADMIN_READ}
    keys = {name: await parts.keys.create(name, name, scopes=[s]) for name, s in wanted.items()}
    app = build_gateway_app(
        gate=parts.gate, clock=parts.clock, pings={}, sections=gateway_sections(parts)
    )
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield Office(parts, http, keys)
    await parts.postgres.close()


@pytest.fixture
async def place(postgres_dsn: str) -> AsyncIterator[Office]:
    async with office(postgres_dsn) as made:
        yield made


async def test_a_client_sees_its_own_use_and_nobody_elses(place: Office) -> None:
    await place.spend("ann", 10)
    await place.spend("bob", 7)
    said = (await place.get("ann", "/usage?group_by=client")).json()
    assert [(row["client"], row["total_tokens"]) for row in said["rows"]] == [("ann", 10)]
    assert said["total"]["completion_tokens"] == 10
    refused = await place.get("ann", "/usage?client=bob")
    assert refused.status_code == 403
    assert (await place.get("ann", "/usage?client=ann")).json()["total"]["total_tokens"] == 10
    borrowed = place.keys["bob"].key.id
    assert (await place.get("ann", f"/usage?key={borrowed}")).json()["rows"] == []


@pytest.mark.parametrize("who", ["admin", "eye"])
async def test_admins_see_all_by_what_they_like(place: Office, who: str) -> None:
    await place.spend("ann", 10)
    await place.spend("ann", 5, agent="news", model="n")
    await place.spend("bob", 7)
    said = (await place.get(who, "/usage?group_by=client,model")).json()
    found = [(row["client"], row["model"], row["total_tokens"]) for row in said["rows"]]
    assert found == [("ann", "m", 10), ("ann", "n", 5), ("bob", "m", 7)]
    assert (await place.get(who, "/usage?agent=news")).json()["total"]["total_tokens"] == 5
    assert (await place.get(who, "/usage?from=2999-01-01")).json()["rows"] == []
    assert (await place.get(who, "/usage?group_by=&limit=1")).json()["truncated"] is False
    assert (await place.get(who, "/usage?group_by=colour")).status_code == 400
    assert (await place.get(who, "/usage?from=soon")).status_code == 422


async def test_usage_comes_as_csv_that_a_spreadsheet_does_not_run(place: Office) -> None:
    await place.spend("ann", 10, agent="=cmd()")
    asked = {"headers": {"accept": "text/csv"}}
    answer = await place.get("eye", "/usage?group_by=agent", **asked)
    assert answer.headers["content-type"].startswith("text/csv")
    head, row = answer.text.splitlines()
    assert head.startswith("agent,requests,broken,prompt_tokens")
    assert row.startswith("'=cmd(),1,0,0,10")
    named = await place.get("eye", "/usage?group_by=agent&format=csv")
    assert named.text == answer.text


async def test_budgets_are_set_by_admins_and_seen_by_their_clients(place: Office) -> None:
    edges = {"budgets": [{"period": "day", "unit": "tokens", "soft": 5, "hard": 10}]}
    for who in ("ann", "eye"):
        refused = await place.ask("PUT", who, "/budgets/client/ann", json=edges)
        assert refused.status_code == 403
    await place.spend("ann", 4)
    made = await place.ask("PUT", "admin", "/budgets/client/ann", json=edges)
    assert made.json()["budgets"][0]["used"] == 4
    assert (await place.get("ann", "/budgets")).json()["budgets"][0]["hard"] == 10
    assert (await place.get("bob", "/budgets")).json()["budgets"] == []
    assert (await place.get("bob", "/budgets?client=ann")).status_code == 403
    assert len((await place.get("eye", "/budgets")).json()["budgets"]) == 1
    assert (await place.ask("DELETE", "admin", "/budgets/client/ann")).status_code == 204
    assert (await place.get("ann", "/budgets")).json()["budgets"] == []


async def test_a_key_is_changed_with_its_budgets(place: Office) -> None:
    key = place.keys["ann"].key.id
    body = {"limit": 7, "budgets": [{"period": "month", "unit": "money", "hard": 2.5}]}
    changed = await place.ask("PATCH", "admin", f"/keys/{key}", json=body)
    assert (changed.json()["limit"], changed.json()["name"]) == (7, "ann")
    (budget,) = (await place.get("ann", "/budgets")).json()["budgets"]
    assert (budget["kind"], budget["owner"], budget["hard"]) == ("key", key, 2.5)
    body = {"limit": None, "name": "desk"}
    changed = await place.ask("PATCH", "admin", f"/keys/{key}", json=body)
    assert (changed.json()["limit"], changed.json()["name"]) == (None, "desk")
    assert len((await place.get("ann", "/budgets")).json()["budgets"]) == 1
    assert (await place.ask("PATCH", "admin", "/keys/nobody", json={})).status_code == 404
    assert (await place.ask("PATCH", "ann", f"/keys/{key}", json={})).status_code == 403


async def test_setting_budgets_answers_them_however_many_others_there_are(place: Office) -> None:
    await place.parts.postgres.fetch(
        "INSERT INTO lambent.budget (kind, owner, period, unit, client, hard)"
        " SELECT 'client', 'a' || n, 'day', 'tokens', 'a' || n, 9 FROM generate_series(1, 1000) n"
    )
    body = {"budgets": [{"period": "day", "unit": "tokens", "hard": 5}]}
    for owner in ("client/zoe", f"key/{place.keys['bob'].key.id}"):
        answer = await place.ask("PUT", "admin", f"/budgets/{owner}", json=body)
        assert [one["hard"] for one in answer.json()["budgets"]] == [5], answer.text


async def test_a_report_without_a_first_day_is_of_thirty_days_and_says_so(place: Office) -> None:
    await place.parts.postgres.fetch(
        "INSERT INTO lambent.usage_day (day, client, key_id, agent, model, requests)"
        " SELECT (now() AT TIME ZONE 'UTC')::date - n, 'ann', '', '', 'm', 1"
        " FROM unnest(ARRAY[1, 28, 31, 70]) n"
    )
    now = place.parts.clock.now()
    said = (await place.get("ann", "/usage")).json()
    assert said["total"]["requests"] == len(said["rows"]) == 2
    assert said["from"] in {str((now - timedelta(days=ago)).date()) for ago in (28, 29)}
    assert said["to"] is None
    first, last = ((now - timedelta(days=ago)).date() for ago in (80, 10))
    said = (await place.get("ann", f"/usage?from={first}")).json()
    assert (said["total"]["requests"], said["from"]) == (4, str(first))
    said = (await place.get("ann", f"/usage?to={last}")).json()
    assert (said["total"]["requests"], said["to"]) == (2, str(last))
    assert said["from"] == str(last - timedelta(days=29))
    assert (await place.get("ann", "/usage?to=0001-01-05")).json()["from"] == "0001-01-01"
