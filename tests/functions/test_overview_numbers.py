"""The overview's numbers are those of the chats and refusals that there were, as the page shows."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from local.services import Reply, ScriptedModel
from tests.functions.dashboard_kit import VARIANTS, Operator, problems_of
from tests.functions.stack import Stack

pytestmark = pytest.mark.browser

NAMES = ("chats", "tokens", "first_tokens", "over_limit")


def activity(stack: Stack) -> dict[str, Any]:
    with stack.client() as client:
        found: dict[str, Any] = client.get("/overview/activity").raise_for_status().json()
    return found


def counted(stack: Stack) -> list[int]:
    return [activity(stack)["total"][name] for name in NAMES]


def answers_of_each_environment(stack: Stack) -> None:
    """Each tells what it has counted after an answer; several at once reach more than one."""
    with stack.client() as client, ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: client.get("/agents").raise_for_status(), range(3)))


def test_the_overview_counts_chats_and_limits_and_says_who_met_them(
    chromium: Browser, scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(*(Reply.many(3, prompt_tokens=4) for _ in range(4)))
    key = scripted_stack.new_key(client="eager", limit=4)
    before = counted(scripted_stack)
    ask = {"agent": "chat", "input": "hi"}
    with scripted_stack.client(key) as client:
        said = [client.post("/chat", json=ask).status_code for _ in range(11)]
        time.sleep(6)  # what is counted goes along with whoever comes later
        said.append(client.post("/chat", json=ask).status_code)
    assert (said.count(200), said.count(429)) == (4, 8)
    wanted = [now + more for now, more in zip(before, (4, 28, 4, 8), strict=True)]
    for _ in range(100):
        answers_of_each_environment(scripted_stack)
        if (found := counted(scripted_stack)) == wanted:
            break
        time.sleep(0.1)
    assert found == wanted
    who = Operator(chromium, scripted_stack)
    page = who.sign_in(scripted_stack.admin_key)
    link = page.get_by_role("link", name=re.compile("eager met limits in the last day: 8 × over"))
    expect(page.get_by_role("region", name="Chats")).to_contain_text(f"{wanted[0]:,} in the last")
    for name in ("chats", "first-token", "limits", "runs", "tokens"):
        # Looked up anew each time: the page is drawn again every few seconds.
        page.wait_for_function(
            """(name) => {
                const image = document.querySelector(`img[src*="/${name}.svg"]`);
                image.loading = "eager";
                return image.complete && image.naturalWidth > 0;
            }""",
            arg=name,
        )
    for variant in VARIANTS:
        again = Operator(chromium, scripted_stack, variant=variant)
        again.sign_in(scripted_stack.admin_key)
        again.page.wait_for_load_state("networkidle")
        assert problems_of(again, "overview-busy", variant) == []
        again.context.close()
    link.click()
    page.wait_for_url("**/admin/keys?client=eager")
    who.context.close()
    assert who.complaints == []


def test_agents_are_listed_with_their_model_and_tools(
    chromium: Browser, scripted_stack: Stack
) -> None:
    with scripted_stack.client() as client:
        agents = client.get("/overview/agents").raise_for_status().json()["agents"]
        named = client.get("/agents").json()["agents"]
    assert [one["name"] for one in agents] == [one["name"] for one in named]
    durable = next(one for one in agents if one["durable"])
    assert durable["tools"]
    who = Operator(chromium, scripted_stack)
    page = who.sign_in(scripted_stack.admin_key, "/admin/workflows")
    table = page.get_by_role("region", name="Table: Agents")
    row = table.locator("tr").filter(has=page.get_by_role("link", name=durable["name"], exact=True))
    expect(row).to_contain_text(durable["model"])
    expect(row).to_contain_text("durable, v")
    row.locator("summary").first.click()
    expect(row.locator(".hint").first).to_have_text(durable["tools"][0]["description"])
    row.get_by_role("link", name=durable["name"], exact=True).click()
    page.wait_for_url(f"**/admin/playground?agent={durable['name']}")
    for variant in VARIANTS:
        again = Operator(chromium, scripted_stack, variant=variant)
        again.sign_in(scripted_stack.admin_key, "/admin/workflows")
        assert problems_of(again, "agents", variant) == []
        again.context.close()
    who.context.close()
