"""Forms of the pages in a real browser: what they change, and what they keep when refused."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.functions.dashboard_kit import Operator
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
