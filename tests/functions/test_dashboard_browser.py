"""The admin pages in a real Chromium, over the whole local stack, as an operator uses them."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from local.services import ScriptedModel
from tests.functions.dashboard_kit import HOSTILE, VARIANTS, Operator, problems_of
from tests.functions.stack import Stack

pytestmark = pytest.mark.browser

DIGEST = {"approval": True, "articles": 1}


def start_digest(page: Page) -> str:
    page.goto("/admin/workflows/news.digest")
    page.get_by_label("approval").check()
    page.get_by_label("articles").fill("1")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url(re.compile(r"/admin/runs/\w{26}"))
    return page.url.split("/")[-1].split("?")[0]


def badge(page: Page) -> Any:
    return page.locator(".head .badge").first


def test_a_run_is_started_watched_given_its_event_and_restarted(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    start_digest(page)
    # Nobody reloads: the page follows the run.
    expect(page.get_by_role("heading", name="Waits for news.digest.decided")).to_be_visible()
    page.locator("textarea[name=data]").fill('{"approved": true}')
    page.get_by_role("button", name="Send the event").click()
    expect(badge(page)).to_have_text("completed")
    step = page.locator(".steps details", has_text="sum up").first
    step.locator("summary").click()
    step.get_by_role("button", name="Restart from this step").click()
    expect(page.get_by_text("The run starts again.")).to_be_visible()
    expect(page.get_by_text("Tries")).to_be_visible()
    expect(badge(page)).to_have_text(re.compile("waiting|running|completed"))


def test_a_key_is_made_shown_once_used_and_revoked(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    page.goto("/admin/keys")
    page.get_by_label("Name").fill("by hand")
    page.locator("form[action$=key-create] input[name=client]").fill("browser")
    page.get_by_role("button", name="Create the key").click()
    secret = page.locator("#secret").inner_text()
    with scripted_stack.client(secret) as client:
        assert client.get("/agents").status_code == 200
    page.get_by_role("link", name="I have kept it").click()
    assert secret not in page.content()
    page.goto("/admin/keys?client=browser")
    page.get_by_label("Change by hand").first.click()
    page.get_by_role("button", name="Revoke for good").first.click()
    expect(page.get_by_text("The key is revoked.")).to_be_visible()
    with scripted_stack.client(secret) as client:
        assert client.get("/agents").status_code == 401


def test_the_breaker_trips_visibly_and_is_closed_by_hand(
    operator: Operator, scripted_stack: Stack, script: ScriptedModel
) -> None:
    page = operator.page
    script.stop_listening()
    try:
        with scripted_stack.client() as client:
            for _ in range(6):
                client.post("/chat", json={"agent": "chat", "input": "hi"})
        page.goto("/admin")
        expect(
            page.get_by_text(re.compile("The breaker of .* is (open|half open)"))
        ).to_be_visible()
    finally:
        script.listen_again()
    page.goto("/admin/hosts")
    page.get_by_role("button", name="Close the breaker").click()
    expect(page.get_by_text("The breaker is set.")).to_be_visible()
    expect(page.get_by_text("breaker closed")).to_be_visible()
    expect(page.get_by_role("region", name="History of breakers")).to_contain_text("by hand")


def until(client: httpx.Client, run: str, status: str) -> None:
    last = time.monotonic() + 60
    while client.get(f"/runs/{run}").json()["status"] != status:
        assert time.monotonic() < last
        time.sleep(0.05)


@pytest.fixture(scope="module")
def addresses(scripted_stack: Stack) -> dict[str, str]:
    """Every page by name, after things with hostile names and contents have been made."""
    event = {"specversion": "1.0", "id": HOSTILE, "source": "/x", "type": "x.y", "subject": HOSTILE}
    with scripted_stack.client() as client:

        def made(path: str, body: Any, kind: str = "application/json") -> Any:
            answer = client.post(path, json=body, headers={"content-type": kind})
            assert answer.status_code < 300, answer.text
            return answer.json()

        names = {"name": HOSTILE[:99], "client": HOSTILE[:99]}
        key = made("/keys", {**names, "scopes": ["chat"]})["id"]
        published = made(
            "/events", {**event, "data": {HOSTILE: HOSTILE}}, "application/cloudevents+json"
        )
        hook = {"url": "http://127.0.0.1:9/x", "types": ["x.*"], "description": HOSTILE}
        webhook = made("/webhooks", hook)["id"]
        plan = {"cron": "0 7 * * *", "workflow": "news.digest", "input": {HOSTILE: 1}}
        made("/schedules", {"name": f"{HOSTILE[:60]}{webhook}", **plan})
        failing = made("/runs", {"workflow": "news.digest", "input": {HOSTILE: HOSTILE}})["id"]
        waiting = made("/runs", {"workflow": "news.digest", "input": DIGEST})["id"]
        again = made("/runs", {"workflow": "news.digest", "input": DIGEST})["id"]
        until(client, again, "waiting")
        made(f"/runs/{again}/cancel", None)
        until(client, again, "cancelled")
        made(f"/runs/{again}/restart", None)
        until(client, again, "waiting")
    return {
        "overview": "/admin",
        "runs": "/admin/runs",
        "run-failed": f"/admin/runs/{failing}",
        "run-waiting": f"/admin/runs/{waiting}",
        "run-again": f"/admin/runs/{again}",
        "bulk": "/admin/runs/bulk?command=retry&workflow=news.digest",
        "nothing": f"/admin/runs?workflow={quote(HOSTILE)}&status=failed",
        "workflows": "/admin/workflows",
        "workflow": "/admin/workflows/news.digest",
        "unknown-workflow": f"/admin/workflows/{quote(HOSTILE, safe='')}",
        "events": "/admin/events",
        "event": f"/admin/events/{published['events'][0]['key']}",
        "schedules": "/admin/schedules?cron=0+7+*+*+*",
        "webhooks": "/admin/webhooks",
        "webhook": f"/admin/webhooks/{webhook}",
        "keys": "/admin/keys",
        "key": f"/admin/keys/{key}",
        "usage": "/admin/usage",
        "audit": "/admin/audit",
        "hosts": "/admin/hosts",
        "playground": "/admin/playground",
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_page_is_sound_and_shows_hostile_text_as_text(
    chromium: Browser, scripted_stack: Stack, addresses: dict[str, str], variant: str
) -> None:
    who = Operator(chromium, scripted_stack, variant=variant)
    who.page.goto("/admin/sign-in")
    found = [f"sign-in: {one}" for one in problems_of(who, "sign-in", variant)]
    who.sign_in(scripted_stack.admin_key)
    for name, path in addresses.items():
        answer = who.page.goto(path)
        assert answer is not None
        assert answer.status == 200, (name, answer.status)
        assert len(answer.body()) < 100_000
        found += [f"{name}: {one}" for one in problems_of(who, name, variant)]
    who.context.close()
    assert not found, "\n".join(found)


def test_the_keyboard_alone_is_enough(chromium: Browser, scripted_stack: Stack) -> None:
    who = Operator(chromium, scripted_stack)
    page = who.page
    page.goto("/admin")
    expect(page.get_by_label("Admin key")).to_be_focused()
    page.keyboard.type(scripted_stack.admin_key)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"//[^/]+/admin$"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    who.context.close()


def test_the_pages_work_without_scripts(chromium: Browser, scripted_stack: Stack) -> None:
    context = chromium.new_context(base_url=scripted_stack.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/admin/runs?status=failed")
    page.get_by_label("Admin key").fill(scripted_stack.admin_key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/admin/runs?status=failed")
    run = start_digest(page)
    page.get_by_text("Cancel …").click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.wait_for_url(f"**/admin/runs/{run}?done=cancel")
    page.goto("/admin/playground")
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_have_count(0)
    context.close()
