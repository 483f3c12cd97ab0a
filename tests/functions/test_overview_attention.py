"""What the overview says needs attention: work that nobody takes, and what was given up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lambent.bus.transitions import DELIVERIES, EVENTS, WEBHOOKS
from lambent.clock import EPOCH, FAR_FUTURE
from lambent.engine.model import RUNS
from lambent.poller.generation import Generation
from tests.functions.admin_site import AdminSite
from tests.functions.test_queries_by_index import HOOK, an_id, delivery, event

GONE = "01KB0000000000000000000009"


async def told(site: AdminSite) -> tuple[dict[str, Any], str]:
    """The overview as the API tells it, and its page."""
    async with site.client(await site.key()) as client:
        found: dict[str, Any] = (await client.get("/overview")).raise_for_status().json()
    browser = await site.browser()
    return found, (await browser.get("/admin")).text


async def due_since(site: AdminSite, minutes: int, run: str, **changes: Any) -> None:
    at = site.parts.clock.now() - timedelta(minutes=minutes)
    runs = site.parts.mongo.db[RUNS.collection]
    done = await runs.update_one({"_id": run}, {"$set": {"due_at": at, **changes}})
    assert done.matched_count == 1


async def test_where_nothing_is_late_or_given_up_nothing_needs_attention(site: AdminSite) -> None:
    await site.run()
    found, page = await told(site)
    assert [one["kind"] for one in found["late"]] == ["run"]  # due a moment ago, and no more
    assert not found["poller_awake"]
    assert "Nothing needs attention." in page


async def test_work_that_nobody_takes_is_told_and_that_no_poller_is_awake(site: AdminSite) -> None:
    run = await site.run()
    await due_since(site, 10, run)
    overdue = {"status": "pending", "due_at": site.parts.clock.now() - timedelta(minutes=5)}
    late = event(1, site.parts.clock.now()) | overdue
    await site.parts.mongo.db[EVENTS.collection].insert_one(late)
    found, page = await told(site)
    assert [(one["kind"], one["id"]) for one in found["late"]] == [
        ("run", run),
        ("event", late["_id"]),
    ]
    assert 600 <= found["due_lag_s"] < 700
    assert "No poller is awake, though work has been due for 10" in page
    assert f'<a href="/admin/runs/{run}">A run has been due for 10' in page
    assert f'<a href="/admin/events/{late["_id"]}">An event has been due for 5' in page


async def test_with_a_poller_awake_only_the_lag_is_told(site: AdminSite) -> None:
    await due_since(site, 10, await site.run())
    clock = site.parts.clock
    poller = Generation(site.parts.mongo, clock=clock)
    await poller.take_over(clock.now() + timedelta(minutes=1))
    found, page = await told(site)
    assert found["poller_awake"]
    assert "A run has been due for 10" in page
    assert "No poller is awake" not in page
    await poller.fall_asleep()
    assert "No poller is awake" in (await told(site))[1]


async def test_what_somebody_works_on_is_not_late(site: AdminSite) -> None:
    """A claimed document keeps its due time until it is settled."""
    leased = site.parts.clock.now() + timedelta(seconds=20)
    await due_since(site, 10, await site.run(), lease="x", lease_until=leased)
    found, page = await told(site)
    assert (found["late"], found["due_lag_s"]) == ([], 0.0)
    assert "has been due" not in page


async def test_dead_letters_are_told_by_webhook_with_where_they_can_be_sent_again(
    site: AdminSite,
) -> None:
    db, now = site.parts.mongo.db, site.parts.clock.now()
    hook = {
        "client": "ops", "url": "https://x.example/<b>", "types": ["*"], "description": "",
        "secrets": [], "status": "active", "reason": None, "created_at": now, "updated_at": now,
    }  # fmt: skip
    await db[WEBHOOKS].insert_one({**hook, "_id": HOOK})
    dead = [
        {**delivery(number, now), "_id": f"{an_id(number, now)}-{to}", "webhook": to,
         "status": status}
        for number, (to, status) in enumerate(
            [(HOOK, "dead"), (HOOK, "dead"), (HOOK, "delivered"), (GONE, "dead")]
        )
    ]  # fmt: skip
    await db[DELIVERIES.collection].insert_many(dead)
    failed = {"status": "failed", "due_at": FAR_FUTURE, "lease_until": EPOCH}
    await db[EVENTS.collection].insert_one(event(1, now) | failed)
    found, page = await told(site)
    assert found["dead_events"] == {"count": 1, "more": False}
    assert found["dead_letters"] == [{"webhook": HOOK, "url": hook["url"], "count": 2}]
    assert '<a href="/admin/events?status=failed">Events whose delivery was given up: 1.' in page
    link = f'<a href="/admin/webhooks/{HOOK}?status=dead">'
    assert f"{link}Dead letters of https://x.example/&lt;b&gt;: 2." in page
    browser = await site.browser()
    letters = (await browser.get(f"/admin/webhooks/{HOOK}?status=dead")).text
    assert letters.count("Replay") >= 2 or letters.count("Send again") >= 2
