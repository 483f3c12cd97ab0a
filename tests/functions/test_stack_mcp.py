"""A durable turn that calls an MCP server's tools, through the whole stack, while it is killed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.services import ScriptedModel
from local.services.script import Reply
from local.services.scripted import Recorded
from tests.functions.stack import Stack, frames
from tests.functions.storm.deployed import deployed
from tests.functions.test_stack_agents import WORDS, await_all, kill_all
from tests.store.mcp_process import McpProcess

LAYER = Path(__file__).resolve().parent / "mcp_layer"


@dataclass(frozen=True, slots=True)
class Site:
    stack: Stack
    shelf: McpProcess


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("mcp")
    shelf = McpProcess(folder / "shelf").start()
    try:
        with ScriptedModel.start() as script:
            script.default = answer
            environ = {"OLLAMA_HOST": script.host, "MCP_SERVERS": f"shelf={shelf.url}"}
            data = folder / "data"
            with deployed(data, layer=LAYER, module="shelf_agents", environ=environ) as stack:
                yield Site(stack, shelf)
    finally:
        shelf.kill()


def begin(site: Site, how: str, *, until: str) -> tuple[str, list[str]]:
    """The turn's id, and its lines up to the one with these words, when all functions die."""
    lines: list[str] = []
    asked = {"agent": "librarian", "input": f"Note it, {how}."}
    with (
        site.stack.client() as client,
        client.stream("POST", "/chat/stream", json=asked, timeout=60) as answer,
    ):
        turn = str(answer.headers["x-stream-id"])
        for line in answer.iter_lines():
            lines.append(line)
            if until in line:
                break
        if until == "tool_call":
            await_all(lambda: site.shelf.said("notes") != "")
        kill_all(site.stack, "chat", "step")
    return turn, lines


def rest(site: Site, turn: str, after: str) -> str:
    """What the turn tells behind that event, once somebody has taken it over."""
    ends = time.monotonic() + 90
    text = ""
    with site.stack.client() as client:
        while "[DONE]" not in text and time.monotonic() < ends:
            seen = [line[4:] for line in text.splitlines() if line.startswith("id: ")]
            headers = {"last-event-id": (seen or [after])[-1]}
            text += client.get(f"/chat/streams/{turn}", headers=headers, timeout=60).text
    return text


def last_of(lines: list[str]) -> str:
    return next((line[4:] for line in reversed(lines) if line.startswith("id: ")), "0")


def answer(asked: Recorded) -> Reply:
    """A note first, that takes its time where it was asked slowly; then words, gone on with."""
    messages = asked.json["messages"]
    if not any(one["role"] == "tool" for one in messages):
        wait_s = 3 if "slowly" in str(messages) else 0
        return Reply.calls(("shelf__note", {"word": "x", "wait_s": wait_s}))
    before = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    return Reply(frames=tuple(re.findall(r"\s*\S+", WORDS[len(before) :])), delay_s=0.05)


@pytest.mark.parametrize("at", ["word9", "tool_call"])
def test_a_killed_turn_goes_on_and_a_call_that_was_answered_is_made_once(
    site: Site, at: str
) -> None:
    site.shelf.fresh()
    turn, lines = begin(site, "slowly" if at == "tool_call" else "at once", until=at)
    text = rest(site, turn, last_of(lines))
    told = [one for one in (*frames("\n".join(lines)), *frames(text)) if one != "[DONE]"]
    assert "".join(one.get("delta", "") for one in told) == WORDS
    results = [one["tool_result"]["content"] for one in told if "tool_result" in one]
    assert results == ["noted x"]
    # Answered, it is on record; cut off, it is made again under the same name.
    made = site.shelf.said("notes").splitlines()
    assert made == [f"x {turn}/0.0"] * (2 if at == "tool_call" else 1)
