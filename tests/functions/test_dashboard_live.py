"""A page that draws itself again leaves alone what somebody is at, and catches up afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.functions.dashboard_kit import Operator, counted
from tests.functions.stack import Stack
from tests.functions.test_dashboard_browser import badge, start_digest

pytestmark = pytest.mark.browser


def started(stack: Stack) -> str:
    with stack.client() as client:
        body = {"workflow": "news.digest", "input": {"approval": True, "articles": 1}}
        return str(client.post("/runs", json=body).raise_for_status().json()["id"])


def decided(stack: Stack, run: str) -> None:
    event = {"specversion": "1.0", "id": run, "source": "/x", "type": "news.digest.decided"}
    with stack.client() as client:
        body = {**event, "subject": run, "data": {"approved": True}}
        kind = {"content-type": "application/cloudevents+json"}
        client.post("/events", json=body, headers=kind).raise_for_status()


def waits(page: Page) -> Any:
    return page.get_by_role("region", name="Waiting")


def test_a_run_that_ends_while_somebody_writes_is_shown_as_ended(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    run = start_digest(page)
    field = waits(page).locator("textarea")
    field.fill('{"approved": fal')
    decided(scripted_stack, run)
    expect(badge(page)).to_have_text("completed")
    expect(field).to_have_value('{"approved": fal')
    expect(field).to_be_focused()
    field.blur()
    expect(waits(page)).to_have_count(0)


def test_a_run_that_ends_while_somebody_confirms_is_shown_as_ended(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    run = start_digest(page)
    expect(waits(page)).to_be_visible()
    page.get_by_text("Cancel …").click()
    decided(scripted_stack, run)
    expect(page.get_by_role("region", name="Output")).to_contain_text("articles")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible()
    page.get_by_text("Cancel …").click()
    expect(badge(page)).to_have_text("completed")
    expect(page.get_by_text("Cancel …")).to_have_count(0)


@pytest.fixture
def reader(chromium: Browser, scripted_stack: Stack) -> Any:
    started(scripted_stack)
    who = Operator(chromium, scripted_stack, variant="narrow-light")
    yield who.sign_in(scripted_stack.admin_key, "/admin/runs")
    who.context.close()
    assert who.complaints == []


def test_a_poll_keeps_focus_scroll_and_what_is_selected(
    reader: Page, scripted_stack: Stack
) -> None:
    link = reader.locator("#live-list tbody a").first
    href = link.get_attribute("href")
    reader.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
    reader.locator("#live-list").evaluate("(one) => { one.scrollLeft = 60 }")
    link.evaluate("(one) => one.focus({ preventScroll: true })")
    fresh = started(scripted_stack)
    expect(reader.locator(f"a[href='/admin/runs/{fresh}']")).to_have_count(1)
    assert reader.evaluate("document.activeElement.getAttribute('href')") == href
    assert reader.evaluate("getSelection().toString()") == "Runs"
    assert reader.locator("#live-list").evaluate("(one) => one.scrollLeft") == 60


def test_a_list_that_is_being_copied_from_waits_for_the_end_of_that(
    reader: Page, scripted_stack: Stack
) -> None:
    row = "document.querySelector('#live-list tbody tr')"
    told = reader.evaluate(f"getSelection().selectAllChildren({row}); getSelection().toString()")
    for _ in range(2):
        with reader.expect_response("**/admin/runs"):
            link = reader.locator(f"a[href='/admin/runs/{started(scripted_stack)}']")
    assert reader.evaluate("getSelection().toString()") == told
    expect(link).to_have_count(0)
    reader.evaluate("getSelection().removeAllRanges()")
    expect(link).to_have_count(1)


def test_the_counts_above_a_list_are_live_and_lead_to_what_they_count(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    page.goto("/admin/runs?workflow=news.digest")
    before, over = counted(page, "waiting"), counted(page, "completed")
    run = started(scripted_stack)
    waiting = page.locator("[data-count=waiting]")
    expect(waiting).to_have_text(str(before + 1))
    expect(page.locator(f"tr:has(a[href='/admin/runs/{run}'])")).to_contain_text("waiting")
    decided(scripted_stack, run)
    expect(page.locator("[data-count=completed]")).to_have_text(str(over + 1))
    expect(waiting).to_have_text(str(before))
    states = page.get_by_role("navigation", name="Runs by state")
    states.get_by_role("link", name="completed").click()
    page.wait_for_url("**/admin/runs?workflow=news.digest&status=completed")
    expect(states.locator("a[aria-current]")).to_contain_text("completed")
    assert counted(page, "completed") == over + 1


def test_a_list_is_asked_for_again_only_where_it_is_another_one(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    asked: list[str] = []
    page.goto("/admin/runs?workflow=news.digest&status=blocked")
    before = counted(page, "waiting")
    page.on("request", lambda one: asked.append(one.url))
    started(scripted_stack)
    expect(page.locator("[data-count=waiting]")).to_have_text(str(before + 1))
    # Stream after stream: each ends in its time, and the next one goes on behind the last event.
    with page.expect_request("**/runs/counts/events?*") as again:
        pass
    assert again.value.headers["last-event-id"]
    assert [one for one in asked if "/admin/runs" in one] == []


def test_a_list_is_polled_where_no_stream_comes_through(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    page.route("**/runs/counts/events?*", lambda route: route.abort())
    page.goto("/admin/runs?workflow=news.digest")
    run = started(scripted_stack)
    expect(page.locator(f"a[href='/admin/runs/{run}']")).to_have_count(1)
    assert all("ERR_FAILED" in one for one in operator.complaints), operator.complaints
    operator.complaints.clear()


def test_times_pass_on_the_page_of_a_run_that_waits(operator: Operator) -> None:
    page = operator.page
    page.clock.install()
    start_digest(page)
    expect(waits(page)).to_contain_text("since")
    page.clock.fast_forward("20:00")
    expect(waits(page)).to_contain_text("since 20 min ago")
