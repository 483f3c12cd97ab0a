"""No list makes its page heavy, however long is what stands in it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lambent.admission.budgets import BudgetEdges, Kind, Period, Unit
from lambent.admission.decisions import Scope
from tests.functions.admin_site import AdminSite, Browser
from tests.functions.test_queries_by_index import HOOK, delivery, event, many, run

MOST_BYTES = 100_000
NAME = "<'&\">" * 20  # what grows most when it is written into a page
TEXT = "<'&\">" * 180
PATHS = (
    "/admin", "/admin/runs", "/admin/runs?status=completed", "/admin/runs/bulk?command=retry",
    "/admin/workflows", "/admin/events", "/admin/schedules", "/admin/webhooks",
    f"/admin/webhooks/{HOOK}", "/admin/keys", "/admin/audit", "/admin/playground",
    "/admin/usage", "/admin/usage?group_by=client", "/admin/usage?group_by=day,client",
    "/admin/usage?group_by=day,model", "/admin/usage?group_by=key&budgets=20",
)  # fmt: skip
BOOK = """INSERT INTO lambent.usage_day (day, client, key_id, agent, model, requests)
SELECT current_date - day, %(name)s || c, 'k' || c, %(name)s || c, %(name)s || c, 1
FROM generate_series(0, 29) day, generate_series(1, 40) c"""


def numbered(number: int) -> str:
    return f"{NAME[:96]}{number}"


async def fill_stores(site: AdminSite) -> None:
    db, now = site.parts.mongo.db, site.parts.clock.now()
    told = {"type": TEXT, "subject": TEXT, "source": TEXT, "client": NAME}
    tried = [{"attempt": 1, "at": now, "status": 500, "problem": TEXT, "excerpt": TEXT[:500],
              "duration_ms": 1}]  # fmt: skip
    given_up = {"status": "dead", "type": TEXT, "history": tried, "reason": TEXT}
    hook = {"client": NAME, "url": f"https://x.example/{TEXT}", "types": [TEXT] * 3,
            "description": TEXT[:500], "secrets": [], "status": "disabled", "reason": TEXT,
            "created_at": now, "updated_at": now}  # fmt: skip
    ages = [(number, now - timedelta(minutes=number + 1)) for number in range(60)]
    failed = {"workflow": NAME, "client": NAME, "status": "failed", "key": TEXT}
    await many(db["runs"], [run(number, at) | failed for number, at in ages])
    await many(db["events"], [event(number, at) | told for number, at in ages])
    await many(db["webhook_deliveries"], [delivery(number, at) | given_up for number, at in ages])
    await many(db["webhooks"], [{**hook, "_id": HOOK}])
    await many(db["webhooks"], [{**hook, "_id": f"{HOOK[:-2]}{n}"} for n in range(10, 70)])


async def fill(site: AdminSite) -> Browser:
    await fill_stores(site)
    await site.parts.postgres.fetch(BOOK, {"name": NAME[:90]})
    for number in range(40):
        edges = [BudgetEdges(period=p, unit=u, hard=9) for p in Period for u in Unit]
        await site.parts.budgets.put(Kind.CLIENT, numbered(number), edges)
    browser = await site.browser(key=await site.key(name=NAME, client=NAME))
    key = await site.key(name=NAME, client=NAME)
    async with site.client(key) as api:
        for number in range(60):
            names = {"name": numbered(number), "client": NAME}
            made = await api.post("/keys", json={**names, "scopes": list(Scope)})
            assert made.is_success, made.text
            plan = {"cron": "0 7 * * *", "workflow": "news.digest", "input": {"x": TEXT}}
            made = await api.post("/schedules", json={"name": numbered(number), **plan})
            assert made.is_success, made.text
        for _ in range(31):
            assert (await api.post("/conversations", json={"title": TEXT[:200]})).is_success
    return browser


async def test_every_list_is_light_whatever_stands_in_it(site: AdminSite) -> None:
    browser = await fill(site)
    heavy: dict[str, Any] = {}
    for path in PATHS:
        answer = await browser.get(path)
        assert answer.status_code == 200, (path, answer.status_code)
        print(path, len(answer.content))
        if len(answer.content) >= MOST_BYTES:
            heavy[path] = len(answer.content)
    assert not heavy


async def test_what_a_page_leaves_out_is_on_the_next_one(site: AdminSite) -> None:
    await fill_stores(site)
    browser = await site.browser()
    first = (await browser.get("/admin/webhooks")).text
    assert first.count("<tr>") == 51
    async with site.client(await site.key()) as api:
        page = (await api.get("/webhooks")).json()
        rest = (await api.get("/webhooks", params={"cursor": page["cursor"]})).json()
    assert (len(page["webhooks"]), len(rest["webhooks"]), rest["cursor"]) == (50, 11, None)
    assert f"cursor={page['cursor']}" in first


async def test_a_report_as_a_file_is_whole(site: AdminSite) -> None:
    await site.parts.postgres.fetch(BOOK, {"name": "c"})
    browser = await site.browser()
    page = (await browser.get("/admin/usage?group_by=day,client")).text
    assert page.count("<tr>") == 101
    assert "The newest 100 rows" in page
    assert f'<td class="break">{site.parts.clock.now().date()}' in page
    text = (await browser.get("/admin/usage/csv?group_by=day,client")).text
    assert len(text.splitlines()) == 1 + 30 * 40
    key = await site.key()
    async with site.client(key) as api:
        asked = {"group_by": "day,client"}
        whole = (await api.get("/usage", params=asked, headers={"accept": "text/csv"})).text
        assert whole == text
        shown = (await api.get("/usage", params=asked)).json()
        assert (len(shown["rows"]), shown["truncated"]) == (1000, True)


async def test_a_file_that_would_be_cut_is_refused(site: AdminSite) -> None:
    many_models = BOOK.replace("%(name)s || c, 1", "repeat('m', 150) || c || 'm' || day, 1")
    await site.parts.postgres.fetch(many_models.replace("(1, 40)", "(1, 1000)"), {"name": "c"})
    async with site.client(await site.key()) as api:
        asked = {"group_by": "model", "format": "csv"}
        answer = await api.get("/usage", params=asked)
    assert answer.status_code == 422
    assert "fewer days" in answer.json()["detail"]
