"""The playground in a real Chromium, over the whole local stack with a scripted model."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from local.services import Reply, ScriptedModel
from local.services.scripted import Recorded
from tests.functions.dashboard_kit import HOSTILE, VARIANTS, Operator, eventually, problems_of
from tests.functions.stack import Stack

pytestmark = pytest.mark.browser


def ask(page: Page, said: str) -> None:
    page.get_by_label("Message").fill(said)
    page.get_by_role("button", name="Send").click()


def answer(page: Page, number: int = 0) -> Any:
    return page.locator(".turn.assistant").nth(number)


def until_left(page: Page, script: ScriptedModel) -> None:
    """Wait until the model's latest generation has lost its client."""
    eventually(page, lambda: script.generations[-1].hung_up)


def test_a_chat_streams_tells_its_usage_and_stops(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    script.script(Reply.text(f"Safe {HOSTILE}"), Reply.many(2_000, delay_s=0.05))
    page.goto("/admin/playground")
    ask(page, "hello")
    expect(answer(page)).to_contain_text(HOSTILE)
    expect(answer(page)).to_contain_text(re.compile(r"7 \+ \d+ tokens"))
    ask(page, "more")
    expect(answer(page, 1)).to_contain_text("word word")
    page.get_by_role("button", name="Stop").click()
    expect(answer(page, 1)).to_contain_text("Stopped.")
    until_left(page, script)
    page.reload()
    # The server has drawn it now, what was stopped too.
    expect(answer(page)).to_contain_text(HOSTILE)
    expect(answer(page)).to_contain_text(re.compile(r"7 \+ \d+ tokens"))
    expect(answer(page, 1)).to_contain_text("word word")
    assert page.evaluate("window.hit") is None


def test_what_is_added_while_its_page_is_loaded_again_is_shown(
    operator: Operator, script: ScriptedModel
) -> None:
    page, adding = operator.page, list[Route]()
    script.script(Reply.many(2_000, delay_s=0.05))
    page.goto("/admin/playground")
    ask(page, "talk")
    expect(answer(page)).to_contain_text("word word")

    def hold(route: Route) -> None:
        adding.append(route)

    page.route("**/conversations/*/messages", hold, times=1)
    page.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped.")
    eventually(page, lambda: adding, tries=600)

    def load(route: Route) -> None:
        drawn = route.fetch()  # before anything is added
        adding[0].continue_()
        time.sleep(1)  # the old page learns of it; less would only show nothing
        route.fulfill(response=drawn)

    page.route(re.compile("/admin/playground"), load, times=1)
    page.reload()
    expect(answer(page)).to_contain_text("word word")
    page.reload()
    expect(answer(page)).to_contain_text("word word")
    expect(page.locator(".turn.assistant")).to_have_count(1)


def test_a_reload_goes_on_behind_the_last_frame(operator: Operator, script: ScriptedModel) -> None:
    page = operator.page
    words = tuple(f"w{number} " for number in range(60))
    script.script(Reply(frames=words, delay_s=0.1))
    before = len(script.generations)
    page.goto("/admin/playground")
    ask(page, "count")
    expect(answer(page)).to_contain_text("w5 ")
    with page.expect_request(re.compile(r"/chat/streams/\w{26}$")) as again:
        page.reload()
    assert int(again.value.headers["last-event-id"]) > 5
    # What was told before is there at once, what comes now follows it, nothing twice.
    expect(answer(page)).to_contain_text(re.compile(r"7 \+ 60 tokens"), timeout=20_000)
    told = answer(page).locator(".text").inner_text()
    assert told.split() == [word.strip() for word in words]
    assert len(script.generations) == before + 1
    page.reload()
    expect(answer(page)).to_contain_text("w59")
    expect(page.locator(".turn")).to_have_count(2)


def test_agents_are_talked_to_and_only_models_are_chosen_as_models(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    page.goto("/admin/playground")
    models = page.get_by_label("Model").locator("option")
    expect(models).to_contain_text(["the agent’s own", script.model])
    assert not [one for one in models.all_inner_texts() if one.startswith("agent:")]


@pytest.mark.parametrize("how", ["another page", "the tab is closed"])
def test_leaving_the_page_stops_the_model(
    operator: Operator, script: ScriptedModel, how: str
) -> None:
    page = operator.context.new_page()
    script.script(Reply.many(2_000, delay_s=0.05))
    page.goto("/admin/playground")
    ask(page, "talk")
    expect(answer(page)).to_contain_text("word word")
    if how == "another page":
        page.goto("/admin/audit")
    else:
        page.close()
    until_left(operator.page, script)


def test_a_durable_agents_turn_goes_on_without_its_page(
    operator: Operator, script: ScriptedModel
) -> None:
    page, number = operator.page, len(script.generations)
    # Longer than a lease that is left: with one, it would be cut.
    words = " ".join(f"w{one}" for one in range(100))

    def going_on(asked: Recorded) -> Reply:
        last = asked.json["messages"][-1]
        before = last["content"] if last["role"] == "assistant" else ""
        return Reply(frames=tuple(re.findall(r"\s*\S+", words[len(before) :])), delay_s=0.1)

    script.script(going_on, going_on, going_on)
    page.goto("/admin/playground?agent=research")
    ask(page, "look into it")
    expect(answer(page)).to_contain_text("w5 ")
    conversation = page.url
    page.goto("/admin/audit")
    for _ in range(1200):
        if any(one.ended for one in script.generations[number:]):
            break
        page.wait_for_timeout(50)
    page.goto(conversation)
    expect(answer(page)).to_contain_text("w99")
    assert answer(page).locator(".text").inner_text() == words
    page.reload()
    # Now the server has drawn it.
    expect(answer(page)).to_contain_text("w99")
    expect(page.locator(".turn")).to_have_count(2)


def test_conversations_are_listed_opened_gone_on_with_and_deleted(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    script.script(Reply.text("first answer"), Reply.text("second answer"), Reply.text("third"))
    page.goto("/admin/playground")
    ask(page, "about the sea")
    listed = page.get_by_role("region", name="Conversations")
    expect(listed.get_by_role("link").first).to_contain_text("about the sea")
    page.get_by_role("link", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "about the wind")
    expect(listed.get_by_role("link").first).to_contain_text("about the wind")
    listed.get_by_role("link", name=re.compile("about the sea")).click()
    expect(answer(page)).to_contain_text("first answer")
    ask(page, "and its tides")
    expect(answer(page, 1)).to_contain_text("third")
    # The model has been told what was said before.
    said = [one["content"] for one in script.generations[-1].json["messages"]]
    assert said[-3:] == ["about the sea", "first answer", "and its tides"]
    expect(page.locator(".turn .meta")).to_have_count(2)
    page.get_by_text("Delete …").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("The conversation is gone.")).to_be_visible()
    expect(listed.get_by_role("link", name=re.compile("about the sea"))).to_have_count(0)


PUBLISH = ("publish", {"title": HOSTILE, "report": "All of it."})


def ask_research(page: Page, script: ScriptedModel, then: str) -> None:
    script.script(Reply.calls(PUBLISH), Reply.text(then))
    page.goto("/admin/playground?agent=research")
    expect(page.get_by_label("Talk to").locator("option")).not_to_have_count(1)
    ask(page, "publish it")
    expect(answer(page).get_by_text("needs approval")).to_be_visible()
    expect(answer(page).locator(".tool")).to_contain_text("onerror=window.hit")


def test_a_tool_call_is_shown_and_done_once_a_person_approves(
    operator: Operator, scripted_stack: Stack, script: ScriptedModel
) -> None:
    page = operator.page
    ask_research(page, script, "It is out.")
    # Somebody may think for days, and load the page again meanwhile.
    page.reload()
    answer(page).get_by_role("button", name="Approve").click()
    expect(answer(page)).to_contain_text("It is out.")
    expect(answer(page).locator(".tool .badge")).to_have_text("done")
    expect(answer(page).locator(".tool")).to_have_count(1)
    answer(page).get_by_text("Result").click()
    expect(answer(page)).to_contain_text("It is published.")
    with scripted_stack.client() as client:
        found = client.get("/events", params={"type": "research.published"}).json()["events"]
        event = client.get(f"/events/{found[0]['key']}").json()["event"]
        assert event["data"]["title"] == HOSTILE
        entries = client.get("/audit", params={"limit": 20}).json()["entries"]
    assert "decide_call" in [one["action"] for one in entries]
    assert page.evaluate("window.hit") is None


# What people see of an answer, wherever it is drawn: its texts and its calls, opened.
SHOWN = """(turn) => [...turn.querySelectorAll(":scope > .text, :scope > .tool")].map((one) => [
    one.className, one.children.length, one.textContent,
    [...one.querySelectorAll("*")].map((each) => each.nodeName + each.className).join(" ")])"""


def test_a_finished_answer_keeps_its_calls_after_a_reload(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    script.script(
        Reply.calls(("fetch_page", {"url": HOSTILE}), (HOSTILE, {HOSTILE: [1, {"$a.b": HOSTILE}]})),
        Reply.text(f"I could not look at {HOSTILE}."),
    )
    page.goto("/admin/playground?agent=research")
    expect(page.get_by_label("Talk to").locator("option")).not_to_have_count(1)
    ask(page, "look it up")
    expect(answer(page)).to_contain_text("tokens")
    live = answer(page).evaluate(SHOWN)
    assert [one[0] for one in live] == ["tool bad", "tool bad", "text"]
    page.reload()
    expect(answer(page)).to_have_attribute("data-turn", re.compile("."))  # the server has drawn it
    assert answer(page).evaluate(SHOWN) == live
    answer(page).get_by_text("Arguments").nth(1).click()
    expect(answer(page).locator(".tool").nth(1)).to_contain_text("$a.b")
    assert page.evaluate("window.hit") is None
    assert answer(page).locator("img, script").count() == 0


def test_a_stopped_answer_keeps_its_calls_after_a_reload(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    ask_research(page, script, "Fine.")
    page.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped.")
    expect(answer(page).locator(".tool .badge")).to_have_text("no result")
    live = answer(page).evaluate(SHOWN)
    expect(page.locator("#chat")).to_have_attribute("aria-busy", "false")
    page.reload()
    expect(answer(page).locator(".tool")).to_have_count(1)
    expect(answer(page).locator(".hidden")).to_have_count(0)  # the server has drawn it
    assert answer(page).evaluate(SHOWN) == live
    ask(page, "go on then")
    expect(answer(page, 1)).to_contain_text("Fine.")
    expect(page.locator(".turn")).to_have_count(4)
    assert page.evaluate("window.hit") is None


def waiting_run(stack: Stack) -> str:
    with stack.client() as client:
        found = client.get("/runs", params={"workflow": "agent.research", "status": "waiting"})
        return str(found.json()["runs"][0]["id"])


@pytest.mark.parametrize("scripts", [True, False])
def test_a_call_is_decided_on_at_its_runs_page_too(
    operator: Operator,
    chromium: Browser,
    scripted_stack: Stack,
    script: ScriptedModel,
    scripts: bool,
) -> None:
    ask_research(operator.page, script, "Then not.")
    # Somebody else, who never saw the chat.
    variant = "narrow-dark" if scripts else "wide-light"
    other = Operator(chromium, scripted_stack, scripts=scripts, variant=variant)
    page = other.sign_in(scripted_stack.admin_key, f"/admin/runs/{waiting_run(scripted_stack)}")
    waits = page.get_by_role("region", name="Waiting")
    expect(waits.get_by_role("heading")).to_have_text("Waits for a decision on publish")
    expect(waits).to_contain_text("onerror=window.hit")
    if scripts:
        assert problems_of(other, "run-approval", variant) == []
    waits.get_by_label("A word to the agent").fill("too early")
    waits.get_by_role("button", name="Decline").click()
    expect(page.get_by_text("The call is declined.")).to_be_visible()
    expect(answer(operator.page)).to_contain_text("Then not.")
    assert "too early" in script.generations[-1].json["messages"][-1]["content"]
    assert other.complaints == []
    other.context.close()


def test_a_conversation_leads_to_its_turn_that_waits(
    operator: Operator, scripted_stack: Stack, script: ScriptedModel
) -> None:
    page = operator.page
    ask_research(page, script, "Then not.")
    other = operator.context.new_page()
    other.goto(page.url)
    other.get_by_role("region", name="Conversations").locator(".note a").click()
    expect(other.get_by_role("heading", name="Waits for a decision")).to_be_visible()
    other.get_by_role("button", name="Decline").click()
    expect(other.get_by_text("The call is declined.")).to_be_visible()
    expect(answer(page)).to_contain_text("Then not.")
    other.goto(page.url)
    expect(other.get_by_role("region", name="Conversations").locator(".note")).to_have_count(0)


def test_who_may_only_look_sees_the_call_and_no_button(
    operator: Operator, chromium: Browser, scripted_stack: Stack, script: ScriptedModel
) -> None:
    ask_research(operator.page, script, "Then not.")
    other = Operator(chromium, scripted_stack)
    reader = scripted_stack.new_key(scopes=["admin:read"])
    page = other.sign_in(reader, f"/admin/runs/{waiting_run(scripted_stack)}")
    waits = page.get_by_role("region", name="Waiting")
    expect(waits).to_contain_text("onerror=window.hit")
    expect(waits.get_by_role("button")).to_have_count(0)
    other.context.close()
    answer(operator.page).get_by_role("button", name="Decline").click()
    expect(answer(operator.page)).to_contain_text("Then not.")


def test_a_tool_call_is_not_done_where_a_person_declines(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    ask_research(page, script, "Then not.")
    answer(page).get_by_label("A word to the agent").fill("too early")
    answer(page).get_by_role("button", name="Decline").click()
    expect(answer(page)).to_contain_text("Then not.")
    expect(answer(page).locator(".tool .badge")).to_have_text("failed")
    assert "too early" in script.generations[-1].json["messages"][-1]["content"]


def test_a_stream_to_a_page_ends_in_its_time_and_the_page_comes_back(
    operator: Operator, script: ScriptedModel
) -> None:
    page = operator.page
    ask_research(page, script, "At last.")
    for _ in range(2):
        with page.expect_response(re.compile(r"/chat/streams/\w{26}$")) as again:
            pass
        assert again.value.status == 200
    answer(page).get_by_role("button", name="Approve").click()
    expect(answer(page)).to_contain_text("At last.")
    expect(answer(page)).to_have_text(re.compile("tokens"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_chat_in_full_swing_is_sound(
    chromium: Browser, scripted_stack: Stack, script: ScriptedModel, variant: str
) -> None:
    who = Operator(chromium, scripted_stack, variant=variant)
    page = who.sign_in(scripted_stack.admin_key)
    script.script(Reply.text("Fine.", thinking=("Well, ", "hm.")), Reply.many(900, delay_s=0.05))
    page.goto("/admin/playground")
    ask(page, "How are you?")
    expect(answer(page)).to_contain_text("tokens")
    ask(page, HOSTILE)
    expect(answer(page, 1)).to_contain_text("word word")
    found = problems_of(who, "playground-streams", variant)
    page.get_by_role("button", name="Stop").click()
    expect(answer(page, 1)).to_contain_text("Stopped.")
    ask_research(page, script, "Then not.")
    found += problems_of(who, "playground-waits", variant)
    answer(page).get_by_role("button", name="Decline").click()
    expect(answer(page)).to_contain_text("Then not.")
    found += problems_of(who, "playground-done", variant)
    page.reload()
    expect(answer(page).locator(".tool")).to_have_count(1)
    found += problems_of(who, "playground-kept", variant)
    who.context.close()
    assert not found, "\n".join(found)
