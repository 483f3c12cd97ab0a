"""The buttons of the admin pages in a real Chromium, each with what it does to the platform."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from local.services import ScriptedModel
from tests.functions.dashboard_kit import Operator
from tests.functions.stack import Stack

pytestmark = pytest.mark.browser

PAGES = (
    "", "/runs", "/workflows", "/workflows/news.digest", "/events", "/schedules", "/webhooks",
    "/playground", "/hosts", "/keys", "/usage", "/audit",
)  # fmt: skip


class _Receiver(BaseHTTPRequestHandler):
    statuses: list[int]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.statuses.pop(0))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests say enough."""


@contextmanager
def receiver(*statuses: int) -> Iterator[str]:
    """Somebody to tell of events, who answers with these statuses in turn."""
    handler = type("Receiver", (_Receiver,), {"statuses": list(statuses)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        server.shutdown()


@pytest.fixture(autouse=True, scope="module")
def warm(scripted_stack: Stack) -> None:
    """The first connection to a store may take too long on a busy machine: not the story here."""
    with scripted_stack.client() as client:
        for _ in range(40):
            if client.get("/runs").status_code == client.get("/events").status_code == 200:
                return
            time.sleep(0.5)


def until(page: Page, text: str, status: str) -> None:
    """Load the page again until its row with `text` says `status`; nothing pushes to lists."""
    row = page.locator("tr", has_text=text).first
    for _ in range(60):
        if row.locator(".badge", has_text=status).count():
            return
        page.wait_for_timeout(250)
        page.reload()
    expect(row.locator(".badge")).to_have_text(status)


def test_models_are_loaded_unloaded_and_pulled_with_a_bar(
    operator: Operator, script: ScriptedModel
) -> None:
    page, model = operator.page, script.model
    page.goto("/admin/hosts")
    row = page.locator("tr", has_text=model)
    row.get_by_role("button", name="Unload").click()
    expect(page.get_by_text("The model server is told.")).to_be_visible()
    assert model not in script.loaded_models
    row.get_by_role("button", name="Load", exact=True).click()
    expect(row.get_by_text("loaded")).to_be_visible()
    assert model in script.loaded_models
    layer = {"status": "pulling layer", "digest": "sha256:1", "total": 8_000_000}
    script.pulls.append([{**layer, "completed": 8_000_000}, {"status": "success"}])
    page.get_by_label("Pull a model").first.fill("tiny:1b")
    page.get_by_role("button", name="Pull").first.click()
    expect(page.locator(".head .badge").first).to_have_text("completed", timeout=30_000)
    bar = page.get_by_role("progressbar", name="Progress")
    expect(bar).to_have_attribute("value", "8000000")
    expect(page.get_by_text("8 of 8 MB, success")).to_be_visible()
    assert [one.json["model"] for one in script.requests if one.path == "/api/pull"] == ["tiny:1b"]


def test_the_breaker_is_opened_by_hand_for_a_while_and_closed(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    page.goto("/admin/hosts")
    page.get_by_text("Open the breaker …").click()
    page.get_by_label("For seconds").fill("600")
    page.get_by_role("button", name="Open it").click()
    expect(page.get_by_text("breaker open", exact=True)).to_be_visible()
    with scripted_stack.client() as client:
        assert client.post("/chat", json={"agent": "chat", "input": "x"}).status_code == 503
        page.get_by_role("button", name="Close the breaker").click()
        expect(page.get_by_text("breaker closed", exact=True)).to_be_visible()
        assert client.post("/chat", json={"agent": "chat", "input": "x"}).status_code == 200


def test_a_budget_is_made_edited_and_taken_away_and_usage_comes_as_csv(
    operator: Operator, scripted_stack: Stack
) -> None:
    page, client = operator.page, "spender"
    key = scripted_stack.new_key(client=client)
    page.goto("/admin/usage")
    for hard in ("50000", "1"):
        page.get_by_label("Name of the client, or id of the key").fill(client)
        page.get_by_label("Refuse from").fill(hard)
        page.get_by_role("button", name="Set the budget").click()
        expect(page.get_by_text("The budgets are changed.")).to_be_visible()
        row = page.get_by_role("region", name="List of budgets").locator("tr", has_text=client)
        expect(row).to_have_count(1)
        expect(row.locator("td").nth(4)).to_have_text(f"{int(hard):,}")
        if hard == "50000":
            with scripted_stack.client(key) as caller:
                said = caller.post("/chat", json={"agent": "chat", "input": "x"})
                assert said.status_code == 200
    with scripted_stack.client(key) as caller:
        assert caller.post("/chat", json={"agent": "chat", "input": "x"}).status_code == 429
    with scripted_stack.client() as admin:
        daily = {"period": "day", "unit": "tokens", "hard": 7}
        monthly = {"period": "month", "unit": "tokens", "hard": 1}
        admin.put(f"/budgets/client/{client}", json={"budgets": [daily, monthly]})
    page.reload()
    row = page.get_by_role("region", name="List of budgets").locator("tr", has_text="month")
    row = row.filter(has_text=client)
    row.get_by_text("Take away …").click()
    row.get_by_role("button", name="Take this budget away").click()
    # The other one of the same owner stays.
    row = page.get_by_role("region", name="List of budgets").locator("tr", has_text=client)
    expect(row).to_have_count(1)
    expect(row.locator("td").nth(1)).to_have_text("day")
    row.get_by_text("Take away …").click()
    row.get_by_role("button", name="Take this budget away").click()
    expect(page.get_by_text(f"client {client}")).to_have_count(0)
    page.goto(f"/admin/usage?client={client}&group_by=client")
    with page.expect_download() as got:
        page.get_by_role("link", name="CSV").click()
    lines = got.value.path().read_text().splitlines()
    assert lines[0].startswith("client,")
    assert lines[1].startswith(f"{client},1,")


def test_a_keys_secret_is_replaced_and_the_old_one_is_good_for_a_while(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    old = scripted_stack.new_key(name="to rotate", client="rotator")
    new = []
    for hours in ("1", "0"):
        page.goto("/admin/keys?client=rotator")
        page.get_by_label("Change to rotate").click()
        page.get_by_label("Hours that the old secret stays good").fill(hours)
        page.get_by_role("button", name="New secret").click()
        new.append(page.locator("#secret").inner_text())
        expect(page.get_by_text("Only a trace of it")).to_be_visible()
        with scripted_stack.client(old) as client:
            assert client.get("/agents").status_code == (200 if hours == "1" else 401)
    for secret, status in zip(new, (401, 200), strict=True):
        with scripted_stack.client(secret) as client:
            assert client.get("/agents").status_code == status


def test_what_opens_in_a_table_is_seen_whole(operator: Operator, scripted_stack: Stack) -> None:
    page = operator.page
    scripted_stack.new_key(name="to open", client="opener")
    page.goto("/admin/keys?client=opener")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.reload()
        page.get_by_label("Change to open").click()
        table = page.locator(".table").first.bounding_box()
        for button in page.locator("details.confirm[open] button").all():
            box = button.bounding_box()
            assert table is not None
            assert box is not None
            assert box["x"] >= table["x"] - 1
            assert box["x"] + box["width"] <= table["x"] + table["width"] + 1


def test_whoever_is_signed_out_meanwhile_is_told_and_comes_back(
    chromium: Browser, scripted_stack: Stack
) -> None:
    who = Operator(chromium, scripted_stack)
    page = who.sign_in(scripted_stack.admin_key, "/admin/runs?status=failed")
    who.context.clear_cookies()
    expect(page.get_by_text("You are signed out")).to_be_visible(timeout=15_000)
    page.goto("/admin/events")  # leads to the sign-in page
    expect(page.get_by_label("Admin key")).to_be_visible()
    who.sign_in(scripted_stack.admin_key, "/admin/schedules?cron=0+0+1+1+*")
    who.context.clear_cookies()
    page.locator("form[action$=schedule-create] [name=name]").fill("lost")
    page.locator("form[action$=schedule-create] button.first").click()
    page.get_by_label("Admin key").fill(scripted_stack.admin_key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/admin/schedules?cron=*")
    who.context.close()


def test_a_wrong_filter_and_wrong_json_are_told_as_what_they_are(operator: Operator) -> None:
    page = operator.page
    page.goto("/admin/usage?from=zz")
    expect(page.get_by_text("That did not work")).to_be_visible()
    expect(page.get_by_text("does not count usage")).to_have_count(0)
    page.goto("/admin/events")
    form = page.locator("form[action$=event-publish]")
    form.get_by_label("Type").fill("odd")
    form.get_by_label("Data, as JSON").fill("[NaN]")
    form.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("is no JSON")).to_be_visible()
    assert all("422" in one for one in operator.complaints)
    operator.complaints.clear()  # a refused page is told to the console by the browser itself
    page.goto("/admin/schedules")
    names = page.locator("form[action$=schedule-create] [name=workflow] option").all_inner_texts()
    assert "news.digest" in names
    assert not [name for name in names if name.startswith(("agent.", "lambent."))]


def test_a_dead_letter_is_sent_again(operator: Operator) -> None:
    page = operator.page
    with receiver(410, 200) as url:
        page.goto("/admin/webhooks")
        page.locator("form[action$=webhook-create] input[name=url]").fill(url)
        page.locator("form[action$=webhook-create] [name=types]").fill("letter.*")
        page.locator("form[action$=webhook-create] button").click()
        assert page.locator("#secret").inner_text().startswith("whsec_")
        expect(page.get_by_text("Only a trace of it")).to_have_count(0)
        publish(page, "letter.sent", '{"n": 1}')
        page.goto("/admin/webhooks")
        page.locator("main a", has_text=url).click()
        until(page, "letter.sent", "dead")
        page.get_by_role("button", name="Enable").click()
        page.get_by_role("button", name="Send again").click()
        until(page, "letter.sent", "delivered")


def publish(page: Page, type: str, data: str) -> None:
    page.goto("/admin/events")
    form = page.locator("form[action$=event-publish]")
    form.get_by_label("Type").fill(type)
    form.get_by_label("Data, as JSON").fill(data)
    form.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("The event is published.")).to_be_visible()


def test_an_event_is_published_and_delivered_once_more(operator: Operator) -> None:
    page = operator.page
    publish(page, "by.hand", '{"n": 41}')
    expect(page.get_by_role("region", name="The event")).to_contain_text('"n": 41')
    for _ in range(60):
        if page.get_by_role("button", name="Deliver once more").count():
            break
        page.wait_for_timeout(250)
        page.reload()
    page.get_by_role("button", name="Deliver once more").click()
    expect(page.get_by_text("It is sent again.")).to_be_visible()


def test_a_schedule_is_made_paused_gone_on_with_and_deleted(operator: Operator) -> None:
    page = operator.page
    page.goto("/admin/schedules")
    form = page.locator("form[action$=schedule-create]")
    form.get_by_label("Name").fill("each new year")
    form.get_by_label("Workflow").select_option("news.digest")
    form.get_by_label("Cron").fill("0 0 1 1 *")
    form.get_by_role("button", name="Create the schedule").click()
    row = page.locator("tr", has_text="each new year")
    expect(row.locator(".badge")).to_have_text("active")
    row.get_by_role("button", name="Pause").click()
    expect(row.locator(".badge")).to_have_text("paused")
    row.get_by_role("button", name="Resume").click()
    expect(row.locator(".badge")).to_have_text("active")
    row.get_by_label("Delete each new year").click()
    row.get_by_role("button", name="Delete", exact=True).click()
    expect(row).to_have_count(0)


def test_who_may_only_look_sees_no_button_and_is_refused_every_form(
    chromium: Browser, scripted_stack: Stack
) -> None:
    who = Operator(chromium, scripted_stack)
    page = who.sign_in(scripted_stack.new_key(scopes=["admin:read"]))
    for path in PAGES:
        page.goto(f"/admin{path}")
        forms = page.locator("form[method=post]:not([action='/admin/session/end'])")
        assert forms.count() == 0, path
        assert page.locator("button.danger").count() == 0, path
    token = page.locator("input[name=csrf]").first.get_attribute("value")
    # A form of another's page, with the token that this session has.
    said = page.evaluate(
        """async (csrf) => (await fetch("/admin/do/breaker-set", {method: "POST",
            body: new URLSearchParams({csrf, command: "reset", host: "x"})})).status""",
        token,
    )
    assert said == 403
    assert [one for one in who.complaints if "403" not in one] == []
    who.context.close()
