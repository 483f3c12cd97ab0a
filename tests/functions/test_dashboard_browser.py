"""The admin pages in a real Chromium, over the whole local stack, as an operator uses them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from local.services import Reply, ScriptedModel
from tests.conftest import started
from tests.functions.stack import ROOT, Stack

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
# The artefacts of the run: not in the repository, kept until the next run.
SCREENSHOTS = ROOT / ".lambent" / "screenshots"
VARIANTS = {
    "wide-light": (1280, 900, "light"),
    "wide-dark": (1280, 900, "dark"),
    "narrow-light": (390, 844, "light"),
    "narrow-dark": (390, 844, "dark"),
}
# Everything once; on the narrow dark pages what colour and width may change.
AXE: dict[str, dict[str, Any]] = {
    "wide-light": {"resultTypes": ["violations"]},
    "narrow-dark": {
        "runOnly": ["color-contrast", "scrollable-region-focusable"],
        "resultTypes": ["violations"],
    },
}
HOSTILE = "<img src=x onerror=window.hit=1>'\"><script>window.hit=1</script>{{7*7}}"
DIGEST = {"approval": True, "articles": 1}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        started(_no_browser)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def _no_browser() -> None:
    from local.services import ServiceError

    raise ServiceError("there is no chromium: apt-get install chromium")


class Operator:
    """Somebody at a browser. Whatever the console complains about is kept."""

    def __init__(self, browser: Browser, stack: Stack, *, variant: str = "wide-light") -> None:
        width, height, scheme = VARIANTS[variant]
        options: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
        self.context = browser.new_context(base_url=stack.url, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def sign_in(self, key: str, wanted: str = "/admin") -> Page:
        self.page.goto(wanted)
        self.page.get_by_label("Admin key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("button", name="Sign out", exact=True)).to_be_visible()
        return self.page


@pytest.fixture
def operator(chromium: Browser, scripted_stack: Stack) -> Iterator[Operator]:
    who = Operator(chromium, scripted_stack)
    who.sign_in(scripted_stack.admin_key)
    yield who
    who.context.close()
    assert who.complaints == []


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


def test_a_chat_streams_stops_and_survives_a_reload(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    script.script(Reply.text(f"Safe {HOSTILE}"), Reply.many(2_000, delay_s=0.05))
    page.goto("/admin/playground")
    page.get_by_label("Message").fill("hello")
    page.get_by_role("button", name="Send").click()
    answer = page.locator(".turn.assistant").first
    expect(answer).to_contain_text(HOSTILE)
    expect(answer).to_contain_text("tokens")
    page.get_by_label("Message").fill("more")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant").nth(1)).to_contain_text("word word")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn.assistant").nth(1)).to_contain_text("Stopped.")
    page.reload()
    expect(page.locator(".turn.assistant").first).to_contain_text(HOSTILE)
    assert page.evaluate("window.hit") is None
    script_saw_it_end(page, script)


def script_saw_it_end(page: Page, script: ScriptedModel) -> None:
    for _ in range(200):
        if script.generations[-1].hung_up:
            return
        page.wait_for_timeout(50)
    raise AssertionError("the model goes on")


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


@pytest.fixture(scope="module")
def addresses(scripted_stack: Stack) -> dict[str, str]:
    """Every page by name, after things with hostile names and contents have been made."""
    event = {"specversion": "1.0", "id": HOSTILE, "source": "/x", "type": "x.y", "subject": HOSTILE}
    with scripted_stack.client() as client:

        def made(path: str, body: Any, kind: str = "application/json") -> Any:
            answer = client.post(path, json=body, headers={"content-type": kind})
            assert answer.status_code < 300, answer.text
            return answer.json()

        made("/keys", {"name": HOSTILE[:99], "client": HOSTILE[:99], "scopes": ["chat"]})
        published = made(
            "/events", {**event, "data": {HOSTILE: HOSTILE}}, "application/cloudevents+json"
        )
        hook = {"url": "http://127.0.0.1:9/x", "types": ["x.*"], "description": HOSTILE}
        webhook = made("/webhooks", hook)["id"]
        plan = {"cron": "0 7 * * *", "workflow": "news.digest", "input": {HOSTILE: 1}}
        made("/schedules", {"name": f"{HOSTILE[:60]}{webhook}", **plan})
        failing = made("/runs", {"workflow": "news.digest", "input": {HOSTILE: HOSTILE}})["id"]
        waiting = made("/runs", {"workflow": "news.digest", "input": DIGEST})["id"]
    return {
        "overview": "/admin",
        "runs": "/admin/runs",
        "run-failed": f"/admin/runs/{failing}",
        "run-waiting": f"/admin/runs/{waiting}",
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


def problems_of(who: Operator, name: str, variant: str) -> list[str]:
    page = who.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{variant}.png", full_page=True)
    found = list(who.complaints)
    who.complaints.clear()
    if page.evaluate("window.hit !== undefined"):
        found.append("a hostile text was run")
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("it is wider than the window")
    if rules := AXE.get(variant):
        for one in Axe().run(page, options=rules).response["violations"]:
            if one["impact"] in {"serious", "critical"}:
                found.append(f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}")
    return found


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
    context.close()
