"""Forms of the pages in a real browser: what they change, and what they keep when refused."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.functions.dashboard_kit import HOSTILE, Operator, problems_of
from tests.functions.stack import Stack

pytestmark = pytest.mark.browser


def test_a_keys_limits_are_changed_on_its_page_and_written_down(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    secret = scripted_stack.new_key(name="to limit", client="limited")
    page.goto("/admin/keys?client=limited")
    page.get_by_role("link", name="to limit").click()
    page.get_by_label("Requests a minute").fill("2")
    page.get_by_label("Tokens a month, warn from").fill("0.5")
    page.get_by_label("Tokens a month, refuse from").fill("50000000")
    page.get_by_label("Good until").fill("2999-05-01")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The key is changed.")).to_be_visible()
    expect(page.get_by_role("region", name="List of budgets")).to_contain_text("50,000,000")
    with scripted_stack.client(secret) as client:
        assert [client.get("/agents").status_code for _ in range(3)] == [200, 200, 429]
    expect(page.get_by_label("Good until")).to_have_value("2999-05-01")
    page.get_by_label("Requests a minute").fill("")
    page.get_by_label("Tokens a month, warn from").fill("")
    page.get_by_label("Tokens a month, refuse from").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("region", name="List of budgets")).to_have_count(0)
    page.get_by_role("link", name="What was done to it").click()
    expect(page.get_by_role("region", name="Actions").get_by_text("change key")).to_have_count(2)
    with scripted_stack.client() as client:
        [key] = client.get("/keys", params={"client": "limited"}).json()["keys"]
        assert (key["limit"], key["expires_at"]) == (None, "2999-05-01T23:59:59Z")


def test_a_keys_form_sets_back_nothing_that_somebody_else_has_changed_meanwhile(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    scripted_stack.new_key(name="shared", client="meanwhile")
    page.goto("/admin/keys?client=meanwhile")
    page.get_by_role("link", name="shared").click()
    with scripted_stack.client() as client:
        [key] = client.get("/keys", params={"client": "meanwhile"}).json()["keys"]
        budgets = [{"period": "day", "unit": "tokens", "hard": 7}]
        other = {"limit": 77, "expires_at": "2999-01-01T10:30:00Z", "budgets": budgets}
        client.patch(f"/keys/{key['id']}", json=other).raise_for_status()
        page.get_by_label("Name").fill("renamed")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", name="renamed")).to_be_visible()
        key = client.get(f"/keys/{key['id']}").json()
        kept = client.get("/budgets", params={"client": "meanwhile"}).json()["budgets"]
    assert (key["name"], key["limit"], key["expires_at"]) == (
        "renamed", 77, "2999-01-01T10:30:00Z",
    )  # fmt: skip
    assert [one["hard"] for one in kept] == [7]


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_refused_form_keeps_what_was_entered_and_says_what_is_wrong_beside_it(
    chromium: Browser, scripted_stack: Stack, scripts: bool
) -> None:
    variant = "narrow-dark" if scripts else "wide-light"
    who = Operator(chromium, scripted_stack, variant=variant, scripts=scripts)
    page = who.sign_in(scripted_stack.admin_key, "/admin/schedules?timezone=Asia/Tokyo")
    form = page.locator("form[action$=schedule-create]")
    name = f"{HOSTILE[:70]} {scripts}"
    form.get_by_label("Name").fill(name)
    form.get_by_label("Workflow").select_option("news.digest")
    form.get_by_label("Ticks that were missed").select_option("all")
    form.get_by_label("Input, as JSON").fill('\n{"a": </textarea>}')
    for cron, said in (("0 7 * * *", "input is no JSON"), ("77 7 * * *", "cron")):
        form.get_by_label("Cron").fill(cron)
        if said == "cron":
            form.get_by_label("Input, as JSON").fill("{}")
        form.get_by_role("button", name="Create the schedule").click()
        expect(form.get_by_role("alert")).to_contain_text(said)
        expect(form.locator("[aria-invalid=true]")).to_have_count(1)
        expect(form.get_by_label("Name")).to_have_value(name)
        expect(form.get_by_label("Cron")).to_have_value(cron)
        expect(form.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
        expect(form.get_by_label("Ticks that were missed")).to_have_value("all")
        wanted = "{}" if said == "cron" else '\n{"a": </textarea>}'
        expect(form.get_by_label("Input, as JSON")).to_have_value(wanted)
    found = problems_of(who, "refused", variant) if scripts else who.complaints
    assert [one for one in found if "422" not in one] == []
    form.get_by_label("Cron").fill("0 7 * * *")
    form.get_by_role("button", name="Create the schedule").click()
    expect(page.get_by_text("The schedule is made.")).to_be_visible()
    who.context.close()


def test_a_refused_form_of_several_is_the_one_that_is_filled_in(
    operator: Operator, scripted_stack: Stack
) -> None:
    page = operator.page
    for name in ("first of two", "second of two"):
        scripted_stack.new_key(name=name, client="two")
    page.goto("/admin/keys?client=two")
    page.evaluate("for (const one of document.querySelectorAll('form')) one.noValidate = true")
    page.get_by_label("Change first of two").click()
    page.get_by_label("Hours that the old secret").locator("visible=true").fill("9999")
    page.get_by_role("button", name="New secret").locator("visible=true").click()
    row = page.locator("tr", has_text="first of two")
    expect(row.get_by_role("alert")).to_be_visible()
    expect(row.get_by_label("Hours that the old secret")).to_have_value("9999")
    expect(page.get_by_role("alert")).to_have_count(1)
    other = page.locator("tr", has_text="second of two").locator("[name=grace_h]")
    expect(other).to_have_value("24")
    page.get_by_role("checkbox", name="runs").check()
    page.get_by_role("checkbox", name="chat").uncheck()
    form = page.locator("form[action$=key-create]")
    form.get_by_label("Name").fill("x\u00ad")
    form.get_by_label("Client").fill("two")
    page.evaluate("for (const one of document.querySelectorAll('form')) one.noValidate = true")
    form.get_by_label("Requests a minute").fill("0")
    form.get_by_role("button", name="Create the key").click()
    expect(form.get_by_role("alert")).to_contain_text("limit")
    expect(form.get_by_label("Requests a minute")).to_be_focused()
    checked = [one.get_attribute("value") for one in form.locator("[name=scopes]:checked").all()]
    assert checked == ["runs"]
    assert all("422" in one for one in operator.complaints)
    operator.complaints.clear()  # a refused page is told to the console by the browser itself
