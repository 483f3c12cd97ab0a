"""The pages of one schedule and of one webhook, in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, expect

from tests.functions.dashboard_kit import HOSTILE, VARIANTS, Operator, problems_of
from tests.functions.stack import Stack

pytestmark = pytest.mark.browser

BERLIN, TOKYO = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Tokyo")


def made(stack: Stack, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with stack.client() as client:
        answer = client.post(path, json=body)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def schedule(scripted_stack: Stack) -> Iterator[dict[str, Any]]:
    """One that ticks each second; what it starts waits for its editor."""
    digest = {"approval": True, "articles": 1}
    plan = {"cron": "* * * * * *", "timezone": "Europe/Berlin", "catch_up": "none"}
    body = {"name": f"often {HOSTILE}"[:100], "workflow": "news.digest", "input": digest, **plan}
    found = made(scripted_stack, "/schedules", body)
    yield found
    with scripted_stack.client() as client:
        client.delete(f"/schedules/{found['id']}").raise_for_status()
        client.post("/runs/cancel", json={"workflow": "news.digest"})


@pytest.fixture(scope="module")
def webhook(scripted_stack: Stack) -> dict[str, Any]:
    hook = {"url": "http://127.0.0.1:9/x", "types": ["plan.one", "plan.more.*"]}
    return made(scripted_stack, "/webhooks", {**hook, "description": HOSTILE})


def written(text: str) -> datetime:
    return datetime.strptime(text, "%a, %d %b %Y, %H:%M:%S").replace(tzinfo=UTC)


@pytest.fixture
def tokyo(chromium: Browser, scripted_stack: Stack) -> Iterator[Operator]:
    """Somebody whose clock is Tokyo's."""
    who = Operator(chromium, scripted_stack, timezone="Asia/Tokyo")
    who.sign_in(scripted_stack.admin_key)
    yield who
    who.context.close()
    assert who.complaints == []


def test_a_schedule_shows_its_ticks_there_and_here_and_the_runs_it_started(
    tokyo: Operator, schedule: dict[str, Any], scripted_stack: Stack
) -> None:
    page = tokyo.page
    page.goto("/admin/schedules")
    page.locator(f"a[href='/admin/schedules/{schedule['id']}']").click()
    facts = page.get_by_role("region", name="Plan")
    for said in ("* * * * * *", "Europe/Berlin", "news.digest", "the newest version", "left out"):
        expect(facts).to_contain_text(said)
    expect(page.get_by_role("region", name="Input")).to_contain_text('"articles": 1')
    ticks = page.get_by_role("region", name="Table: Next ticks")
    expect(ticks).to_contain_text("Your time, Asia/Tokyo")
    there, here = (ticks.locator("tbody tr").first.locator("td").nth(n) for n in (0, 1))
    at = datetime.fromisoformat(str(here.locator("time").get_attribute("datetime")))
    for cell, zone in ((there, BERLIN), (here.locator("time"), TOKYO)):
        shown = written(cell.inner_text()).replace(tzinfo=zone)
        assert shown == at.replace(microsecond=0)
    runs = page.get_by_role("region", name="Table: Latest runs").locator("tbody a")
    for _ in range(120):  # the poller comes once a minute
        if runs.count():
            break
        page.wait_for_timeout(1_000)
        page.reload()
    href = str(runs.first.get_attribute("href"))
    runs.first.click()
    page.wait_for_url(f"**{href}")
    expect(page.get_by_role("heading", name="news.digest", exact=True)).to_be_visible()


def test_a_paused_schedule_says_who_paused_it_and_goes_on_again(
    operator: Operator, schedule: dict[str, Any]
) -> None:
    page = operator.page
    page.goto(f"/admin/schedules/{schedule['id']}")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.wait_for_url(f"**/admin/schedules/{schedule['id']}?done=schedule-changed")
    expect(page.locator("main")).to_contain_text(
        re.compile("Paused by first admin key, (now|.* ago)")
    )
    expect(page.get_by_role("heading", name="It would tick")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("heading", name="Next ticks")).to_be_visible()


def test_a_webhook_shows_what_it_is_told_of_and_who_disabled_it(
    operator: Operator, webhook: dict[str, Any]
) -> None:
    page = operator.page
    page.goto(f"/admin/webhooks/{webhook['id']}")
    facts = page.get_by_role("region", name="Settings")
    for said in ("plan.one, plan.more.*", HOSTILE, "admin", webhook["id"]):
        expect(facts).to_contain_text(said)
    page.get_by_role("button", name="Disable").click()
    page.wait_for_url(f"**/admin/webhooks/{webhook['id']}?done=webhook-changed")
    expect(page.locator("main")).to_contain_text(
        re.compile("Disabled by first admin key, (now|.* ago)")
    )
    page.get_by_role("button", name="Enable").click()
    expect(page.locator(".head .badge")).to_have_text("active")


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_pages_are_sound_in_every_variant(
    chromium: Browser, scripted_stack: Stack, schedule: Any, webhook: Any, variant: str
) -> None:
    who = Operator(chromium, scripted_stack, variant=variant)
    who.sign_in(scripted_stack.admin_key)
    with scripted_stack.client() as client:
        client.post(f"/schedules/{schedule['id']}/pause")
        client.patch(f"/webhooks/{webhook['id']}", json={"status": "disabled"})
    found: list[str] = []
    for name, thing in (
        ("schedule", f"schedules/{schedule['id']}"),
        ("webhook-off", f"webhooks/{webhook['id']}"),
    ):
        answer = who.page.goto(f"/admin/{thing}")
        assert answer is not None
        assert answer.status == 200
        assert len(answer.body()) < 100_000
        found += [f"{name}: {one}" for one in problems_of(who, name, variant)]
    who.context.close()
    assert not found, "\n".join(found)
