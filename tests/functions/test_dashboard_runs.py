"""A run's page in a real Chromium: retries, lanes, a killed process, a wait, a child, logs."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.functions.dashboard_kit import VARIANTS, Operator, problems_of
from tests.functions.stack import Stack
from tests.functions.storm.deployed import deployed

pytestmark = pytest.mark.browser

LAYER = Path(__file__).resolve().parent / "dashboard_layer"
RECOVERED_MS = 60_000  # a killed slice is taken up once its lease has lapsed


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data = tmp_path_factory.mktemp("trial") / "data"
    with deployed(data, layer=LAYER, module="trial_workflows", environments=1) as stack:
        yield stack


@pytest.fixture(scope="module")
def killed(stack: Stack) -> str:
    """A run whose process was killed in the middle of a step; taken up again, it waits."""
    run = started(stack, "trial", slow=True)
    until(stack, run, lambda steps: any("result of sums" in one["key"] for one in steps))
    time.sleep(0.5)
    pids = stack.pids()["functions"]["step"]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(stack, run, lambda steps: any(one["kind"] == "wait" for one in steps), RECOVERED_MS)
    return run


def started(stack: Stack, workflow: str, **input: Any) -> str:
    with stack.client() as client:
        answer = client.post("/runs", json={"workflow": workflow, "input": input})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


def until(stack: Stack, run: str, seen: Any, within_ms: int = 20_000) -> None:
    with stack.client() as client:
        for _ in range(within_ms // 100):
            found = client.get(f"/runs/{run}/steps").json()["steps"]
            if seen(found):
                return
            time.sleep(0.1)
    raise AssertionError([one["key"] for one in found])


@pytest.fixture
def page(chromium: Browser, stack: Stack) -> Iterator[Page]:
    who = Operator(chromium, stack)
    yield who.sign_in(stack.admin_key)
    who.context.close()
    assert who.complaints == []


def lane(page: Page, name: str) -> Any:
    has = page.locator("b", has_text=re.compile(f"^{name}$"))
    return page.locator(".steps details").filter(has=has)


def test_a_killed_process_its_retries_and_its_log_are_shown(page: Page, killed: str) -> None:
    page.goto(f"/admin/runs/{killed}")
    slices = page.get_by_role("region", name="Table: Slices")
    expect(slices.locator(".badge", has_text="crashed")).to_have_count(1)
    assert len(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}", slices.inner_text())) >= 2
    assert page.locator(".bands .crashed").count() == 1
    charge = lane(page, "charge")
    assert charge.locator("rect.failed").count() == 2  # to scale: a bar an attempt
    assert charge.locator("rect.completed").count() == 1
    charge.locator("summary").click()
    expect(charge.get_by_text("ConnectionError: attempt 1: <b>the till</b>")).to_be_visible()
    expect(charge.locator("pre.code").first).to_contain_text("in _shaky")
    expect(charge.locator("pre.code").first).to_contain_text("trial_workflows.py")
    log = page.get_by_role("region", name="Table: Log")
    said = [log.locator(".said").nth(n).inner_text() for n in range(log.locator(".said").count())]
    assert said == ["An order came in", "Waits for somebody"]
    expect(log).to_contain_text("made=42")


def test_lanes_side_by_side_overlap_and_are_as_long_as_they_took(page: Page, killed: str) -> None:
    page.goto(f"/admin/runs/{killed}?from=start")
    expect(lane(page, "label")).to_be_visible()
    # All at one look: the page is drawn again while it is live.
    boxes = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".steps details")].map((one) => {
            const rect = one.querySelector("rect:not(.dead)").getBoundingClientRect();
            return [one.querySelector("b").textContent, [rect.left, rect.right]];
        }))"""
    )
    assert abs(boxes["pack"][0] - boxes["label"][0]) < 10
    assert boxes["charge"][1] <= boxes["pack"][0] + 5
    assert boxes["slow"][0] > boxes["pack"][1]


def test_child_parent_and_the_event_that_came_are_linked(page: Page, stack: Stack) -> None:
    run = started(stack, "trial")
    until(stack, run, lambda steps: any(one["kind"] == "wait" for one in steps))
    page.goto(f"/admin/runs/{run}")
    expect(page.get_by_role("heading", name="Waits for trial.approved")).to_be_visible()
    page.locator("textarea[name=data]").fill('{"by": "ann"}')
    page.get_by_role("button", name="Send the event").click()
    expect(page.locator(".head .badge").first).to_have_text("completed")
    wait = lane(page, "approval")
    wait.locator("summary").click()
    wait.get_by_role("link", name="the event that came").click()
    expect(page.get_by_role("heading", name="trial.approved")).to_be_visible()
    page.goto(f"/admin/runs/{run}")
    children = page.get_by_role("region", name="Table: Children")
    children.locator("a").first.click()
    expect(page.get_by_role("heading", name="trial.child")).to_be_visible()
    page.locator("dl.facts a").click()
    page.wait_for_url(f"**/admin/runs/{run}")


@pytest.fixture
def gates(tmp_path: Path) -> dict[str, Path]:
    """What each step of `trial.held` waits for."""
    return {name: tmp_path / name for name in ("bake", "wash")}


@pytest.fixture
def held(stack: Stack, gates: dict[str, Path]) -> Iterator[str]:
    """A run of which two steps go on as long as anybody looks; it has the one environment."""
    yield started(stack, "trial.held", **{name: str(gate) for name, gate in gates.items()})
    for gate in gates.values():
        gate.touch()


def test_steps_are_seen_while_they_are_under_way_and_grow(
    page: Page, held: str, gates: dict[str, Path]
) -> None:
    page.goto(f"/admin/runs/{held}")
    bake, wash = lane(page, "bake"), lane(page, "wash")
    expect(bake.locator(".badge")).to_have_text("under way")  # without a reload
    expect(wash.locator(".badge")).to_have_text("under way")
    expect(page.locator("#timeline > header")).to_contain_text("2 under way")
    # Drawn to scale: side by side, to the right end, and what failed before is a bar of its own.
    expect(bake.locator("rect.failed")).to_have_count(1)
    expect(bake.get_by_text("×2")).to_be_visible()
    boxes = [one.locator("rect.running").bounding_box() for one in (bake, wash)]
    frame = wash.locator("svg").bounding_box()
    assert frame is not None
    for box in boxes:
        assert box is not None
        assert abs(box["x"] + box["width"] - frame["x"] - frame["width"]) < 4
    bake.locator("summary").click()
    expect(bake.get_by_text("Attempt 1, ")).to_be_visible()
    wash.locator("summary").click()
    expect(wash.get_by_text("under way since")).to_be_visible()
    first = wash.locator("time.passing").inner_text()
    expect(wash.locator("time.passing")).not_to_have_text(first)
    mix = lane(page, "mix").locator("rect")
    narrow = mix.get_attribute("width")
    expect(mix).not_to_have_attribute("width", str(narrow))  # the scale is that of a longer run
    gates["wash"].touch()
    expect(wash.locator(".badge")).to_have_text("completed")
    expect(wash).to_have_attribute("open", "")  # the same lane still
    expect(bake.locator(".badge")).to_have_text("under way")
    gates["bake"].touch()
    expect(page.locator(".head .badge").first).to_have_text("completed")
    expect(page.locator("time.passing")).to_have_count(0)


def test_a_failed_run_shows_where_the_code_was(page: Page, stack: Stack) -> None:
    run = started(stack, "trial", fails=True)
    until(stack, run, lambda steps: any(one["kind"] == "wait" for one in steps))
    with stack.client() as client:
        event = {"specversion": "1.0", "id": run, "source": "/x", "type": "trial.approved"}
        client.post("/events", json={**event, "subject": run}).raise_for_status()
    until(stack, run, lambda steps: any(one["status"] == "failed" for one in steps))
    page.goto(f"/admin/runs/{run}")
    error = page.get_by_role("region", name="Error")
    expect(error).to_contain_text("KeyError")
    error.get_by_role("link", name="ship").click()
    ship = lane(page, "ship")
    expect(ship).to_have_attribute("open", "")
    expect(ship.locator("pre.code")).to_contain_text("raise KeyError(order")
    expect(ship.locator("pre.code")).to_contain_text("in _ship")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pages_of_runs_are_sound_in_every_variant(
    chromium: Browser, stack: Stack, killed: str, held: str, variant: str
) -> None:
    who = Operator(chromium, stack, variant=variant)
    who.sign_in(stack.admin_key)
    who.page.goto(f"/admin/runs/{held}")
    expect(who.page.locator(".lane .running")).to_have_count(2)
    found = [f"held: {one}" for one in problems_of(who, "run-held", variant)]
    addresses = {"run-killed": f"/admin/runs/{killed}", "trial": "/admin/workflows/trial"}
    addresses |= {"workflows-trial": "/admin/workflows"}
    for name, path in addresses.items():
        answer = who.page.goto(path)
        assert answer is not None
        assert answer.status == 200
        found += [f"{name}: {one}" for one in problems_of(who, name, variant)]
    who.context.close()
    assert not found, "\n".join(found)


def test_a_run_of_thousands_of_steps_opens_light_and_fast(page: Page, stack: Stack) -> None:
    count = 1_000
    run = started(stack, "trial.many", steps=count)
    with stack.client() as client:
        for _ in range(1_200):
            if client.get(f"/runs/{run}").json()["status"] == "completed":
                break
            time.sleep(0.1)
    for query in ("", "?from=start", "?step=n500"):
        answer = page.goto(f"/admin/runs/{run}{query}")
        assert answer is not None
        assert len(answer.body()) < 100_000
        assert page.locator(".steps > li").count() == 50
    expect(page.get_by_text("of 1,000")).to_be_visible()
    expect(lane(page, "n500")).to_have_attribute("open", "")
    page.get_by_role("link", name="Earlier").click()
    expect(lane(page, "n474")).to_be_visible()


def test_a_whole_input_stands_for_the_fields_that_are_required(
    chromium: Browser, stack: Stack
) -> None:
    who = Operator(chromium, stack)
    page = who.sign_in(stack.admin_key, "/admin/workflows/trial.order")
    start = page.get_by_role("button", name="Start", exact=True)
    start.click()
    expect(page.get_by_role("alert")).to_have_text("title has to be given.")
    expect(page.get_by_label("title")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("title").fill("nuts")
    page.get_by_label("pieces").fill("two")
    start.click()
    expect(page.get_by_role("alert")).to_contain_text("pieces")
    page.get_by_label("pieces").fill("2.5")
    start.click()
    expect(page.get_by_role("alert")).to_contain_text("input.pieces: Input should be a valid int")
    expect(page.get_by_label("pieces")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("[aria-invalid]")).to_have_count(1)
    page.get_by_label("title").fill("")
    page.get_by_text("The whole input as JSON instead").click()
    page.locator("textarea[name=input]").fill('{"title": "bolts"}')
    start.click()
    expect(page.get_by_role("region", name="Output")).to_contain_text("bolts")
    assert [one for one in who.complaints if "422" not in one] == []
    who.context.close()


def test_what_is_deployed_is_listed_with_what_runs_of_it(
    page: Page, stack: Stack, killed: str
) -> None:
    page.goto("/admin/workflows")
    rows = page.get_by_role("region", name="Table: Workflows").locator("tbody tr")
    assert [one.split("\t")[0] for one in rows.all_inner_texts()] == [
        "trial",
        "trial.child",
        "trial.held",
        "trial.many",
        "trial.order",
    ]
    own = page.get_by_role("region", name="Table: The platform's own")
    expect(own).to_contain_text("lambent.pull-model")
    with stack.client() as client:
        found = client.get("/overview/workflows/trial").raise_for_status().json()["versions"]
        waiting = client.get("/runs", params={"workflow": "trial", "status": "waiting"}).json()
    assert [(one["version"], one["deployed"]) for one in found] == [(1, True)]
    assert found[0]["runs"]["waiting"]["count"] == len(waiting["runs"]) > 0
    rows.first.get_by_role("link", name="trial").click()
    versions = page.get_by_role("region", name="Table: Versions")
    cells = versions.locator("tbody tr").first.locator("td")
    assert cells.nth(3).inner_text() == str(len(waiting["runs"]))
    cells.nth(3).get_by_role("link").click()
    page.wait_for_url("**/admin/runs?workflow=trial&version=1&status=waiting")
    listed = page.locator("#live-list tbody tr")
    expect(listed).to_have_count(len(waiting["runs"]))
    page.goto("/admin/workflows")
    going_on = rows.first.locator("td.number").first
    assert going_on.inner_text() == str(len(waiting["runs"]))
    going_on.get_by_role("link").click()
    page.wait_for_url("**/admin/runs?workflow=trial&status=going_on")
    expect(page.get_by_label("Status")).to_have_value("going_on")
    expect(listed).to_have_count(len(waiting["runs"]))
    page.goto("/admin/workflows/lambent.pull-model")
    expect(page.get_by_text("Only the platform itself starts it.")).to_be_visible()
    expect(page.get_by_role("button", name="Start", exact=True)).to_have_count(0)
