"""The admin pages where no front makes one origin of gateway and chat, in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Route, expect

from local.services import Reply, ScriptedModel
from tests.functions.dashboard_kit import Operator, counted, eventually
from tests.functions.function_url import FunctionUrl, chat_cors, function_url
from tests.functions.stack import Stack, running_stack

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chat_url() -> Iterator[FunctionUrl]:
    with function_url() as server:
        yield server


@pytest.fixture(scope="module")
def apart(
    tmp_path_factory: pytest.TempPathFactory,
    script: ScriptedModel,
    feed: str,
    chat_url: FunctionUrl,
) -> Iterator[Stack]:
    """A platform whose pages are told of the chat function's own address."""
    environ = {
        "OLLAMA_HOST": script.host,
        "CHAT_BASE_URL": chat_url.url,
        "LIVE_STREAM_S": "3",
        "NEWS_FEEDS": feed,
        "NEWS_FEED_HOSTS": urlsplit(feed).netloc,
    }
    with running_stack(tmp_path_factory.mktemp("apart") / "data", environ) as stack:
        chat_url.behind = chat_url.origin = stack.url
        yield stack


@pytest.fixture
def who(chromium: Browser, apart: Stack) -> Iterator[Operator]:
    person = Operator(chromium, apart)
    person.sign_in(apart.admin_key)
    yield person
    person.context.close()


def test_the_template_lets_the_pages_own_origin_in_and_no_other() -> None:
    scheme, host = (
        {"Fn::Select": [place, {"Fn::Split": ["/", {"Fn::GetAtt": ["GatewayUrl", "FunctionUrl"]}]}]}
        for place in (0, 2)
    )
    assert chat_cors()["AllowOrigins"] == [{"Fn::Join": ["//", [scheme, host]]}]


def test_a_chat_streams_is_resumed_and_left_over_another_origin(
    who: Operator, chat_url: FunctionUrl, script: ScriptedModel
) -> None:
    page = who.page
    script.script(Reply.many(2_000, delay_s=0.05))
    answer = page.goto("/admin/playground")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert f"connect-src 'self' {chat_url.url};" in policy
    expect(page.get_by_label("Talk to").locator("option")).not_to_have_count(1)
    page.get_by_label("Message").fill("talk")
    page.get_by_role("button", name="Send").click()
    told = page.locator(".turn.assistant").first
    expect(told).to_contain_text("word word")
    with page.expect_request(re.compile(r"/chat/streams/\w{26}$")) as again:
        page.reload()
    assert again.value.url.startswith(chat_url.url)
    expect(told).to_contain_text("word word")
    page.goto("/admin/audit")
    eventually(page, lambda: script.generations[-1].hung_up)
    assert who.complaints == []


def test_a_run_is_followed_over_another_origin_and_stream_after_stream(
    who: Operator, chat_url: FunctionUrl
) -> None:
    page = who.page
    page.goto("/admin/workflows/news.digest")
    page.get_by_label("approval").check()
    page.get_by_label("articles").fill("1")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", name="Waits for news.digest.decided")).to_be_visible()
    # Each stream ends in its time; the page comes back behind the last event.
    for _ in range(2):
        with page.expect_request(re.compile(r"/runs/\w{26}/events$")) as next_one:
            pass
        assert next_one.value.url.startswith(chat_url.url)
        assert next_one.value.headers["last-event-id"]
    page.locator("textarea[name=data]").fill('{"approved": true}')
    page.get_by_role("button", name="Send the event").click()
    expect(page.locator(".head .badge").first).to_have_text("completed")
    assert who.complaints == []


def test_a_list_is_counted_over_another_origin(who: Operator, chat_url: FunctionUrl) -> None:
    page = who.page
    with page.expect_request("**/runs/counts/events?*") as watched:
        page.goto("/admin/runs?workflow=news.digest")
    assert watched.value.url.startswith(chat_url.url)
    before = counted(page, "cancelled")
    other = who.context.new_page()
    other.goto("/admin/workflows/news.digest")
    other.get_by_label("approval").check()
    other.get_by_role("button", name="Start", exact=True).click()
    expect(other.get_by_role("heading", name="Waits for news.digest.decided")).to_be_visible()
    other.get_by_text("Cancel …").click()
    other.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("[data-count=cancelled]")).to_have_text(str(before + 1))
    assert who.complaints == []


def test_a_token_that_is_not_good_any_more_is_replaced(
    who: Operator, script: ScriptedModel
) -> None:
    page, given = who.page, [0]

    def stale(route: Route) -> None:
        given[0] += 1
        if given[0] > 1:
            route.continue_()
        else:
            route.fulfill(json={"token": "lamp_stale", "expires_in_s": 300})

    page.route("**/admin/session/token", stale)
    script.script(Reply.text("It goes on."))
    page.goto("/admin/playground")
    page.get_by_label("Message").fill("hello")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant").first).to_contain_text("It goes on.")
    assert given[0] >= 2
    assert all("401" in one for one in who.complaints), who.complaints


def test_a_page_of_another_origin_is_refused(
    who: Operator, chat_url: FunctionUrl, script: ScriptedModel
) -> None:
    page = who.page
    token = page.request.get("/admin/session/token").json()["token"]
    page.route("http://elsewhere.invalid/**", lambda one: one.fulfill(body="<p>hi</p>"))
    page.goto("http://elsewhere.invalid/")
    ask = """async ([url, token]) => {
        try { return (await fetch(url, {headers: {authorization: "Bearer " + token}})).status; }
        catch (error) { return String(error); }
    }"""
    said = page.evaluate(ask, [f"{chat_url.url}/agents", token])
    assert "Failed to fetch" in str(said)
    assert any("CORS policy" in one for one in who.complaints)
