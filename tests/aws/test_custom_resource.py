"""The setup function as CloudFormation sees it: what it asks, and what it must be told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambent.deploy import is_from_cloudformation, serve
from lambent.errors import ConfigError, StoreUnavailable
from lambent.first_aid import explain
from tests.inbox import Inbox

EVENTS = Path(__file__).resolve().parents[1] / "events"


class Setup:
    """Stands for the stores: notes what is asked of it, and does as it is told."""

    def __init__(self, outcome: dict[str, Any] | Exception) -> None:
        self.outcome = outcome
        self.asked: list[dict[str, Any]] = []
        self.secrets: dict[str, str] = {}

    async def run(self, event: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(event)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def put(self, arn: str, text: str) -> None:
        self.secrets[arn] = text


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def event(name: str, inbox: Inbox, **properties: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((EVENTS / f"setup_{name}.json").read_text())
    recorded["ResourceProperties"] |= properties
    return {**recorded, "ResponseURL": inbox.url}


async def answer_to(given: dict[str, Any], setup: Setup, inbox: Inbox) -> dict[str, Any]:
    await serve(given, setup.run, put_secret=setup.put)
    assert len(inbox.answers) == 1
    told = inbox.answers[0]
    assert told["RequestId"] == given["RequestId"]
    assert told["StackId"] == given["StackId"]
    assert told["LogicalResourceId"] == "Stores"
    return told


async def test_a_create_keeps_the_key_before_it_is_made_good(inbox: Inbox) -> None:
    setup = Setup({"applied": ["x"], "admin_key": "whatever"})
    told = await answer_to(event("create", inbox), setup, inbox)
    assert told["Status"] == "SUCCESS"
    (kept,) = setup.secrets.values()
    assert kept == f"lam_admin_{setup.asked[0]['admin_secret']}"
    assert kept not in json.dumps(told)


async def test_the_physical_id_never_changes(inbox: Inbox) -> None:
    setup = Setup({"applied": [], "admin_key": None})
    ids = set()
    for name in ("create", "update", "delete"):
        ids.add((await answer_to(event(name, inbox), setup, inbox))["PhysicalResourceId"])
        inbox.answers.clear()
    assert ids == {"lambent-stores"}


async def test_an_update_leaves_the_key_alone(inbox: Inbox) -> None:
    setup = Setup({"applied": [], "admin_key": None})
    assert (await answer_to(event("update", inbox), setup, inbox))["Status"] == "SUCCESS"
    assert setup.asked == [{"action": "setup"}]
    assert not setup.secrets


async def test_a_delete_touches_no_store_unless_asked(inbox: Inbox) -> None:
    setup = Setup(ConnectionError("no store is reached any more"))
    assert (await answer_to(event("delete", inbox), setup, inbox))["Status"] == "SUCCESS"
    assert not setup.asked


async def test_a_delete_with_data_asks_for_it(inbox: Inbox) -> None:
    setup = Setup({"deleted": True})
    asked = event("delete", inbox, DataOnDelete="delete")
    assert (await answer_to(asked, setup, inbox))["Status"] == "SUCCESS"
    assert setup.asked == [{"action": "delete", "maker": asked["StackId"]}]


async def test_data_that_the_stack_did_not_make_is_kept_and_said_to_be(inbox: Inbox) -> None:
    setup = Setup({"deleted": False})
    told = await answer_to(event("delete", inbox, DataOnDelete="delete"), setup, inbox)
    assert (told["Status"], told["Reason"]) == (
        "SUCCESS",
        "The data was kept: this stack did not make it.",
    )


async def test_a_delete_that_reaches_no_store_fails_so_that_it_can_be_repeated(
    inbox: Inbox,
) -> None:
    setup = Setup(StoreUnavailable("MongoDB does not answer."))
    told = await answer_to(event("delete", inbox, DataOnDelete="delete"), setup, inbox)
    assert told["Status"] == "FAILED"
    assert "Check its address" in told["Reason"]


async def test_a_failure_is_told_in_one_line_without_secrets(inbox: Inbox) -> None:
    setup = Setup(OSError("cannot reach postgresql://me:hunter2@db/x\nfor ever"))
    told = await answer_to(event("create", inbox), setup, inbox)
    assert told["Status"] == "FAILED"
    assert "cannot reach" in told["Reason"]
    assert "hunter2" not in told["Reason"]
    assert "\n" not in told["Reason"]


async def test_the_answer_is_sent_again_when_its_address_fails(inbox: Inbox) -> None:
    inbox.failures = 2
    setup = Setup({"applied": [], "admin_key": None})
    assert (await answer_to(event("update", inbox), setup, inbox))["Status"] == "SUCCESS"


async def test_the_signed_address_is_sent_no_content_type(inbox: Inbox) -> None:
    await answer_to(event("update", inbox), Setup({}), inbox)
    assert inbox.content_types == [""]


async def test_a_setup_that_hangs_is_answered_before_the_function_ends(inbox: Inbox) -> None:
    import asyncio

    async def hang(_: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    told = await serve(event("update", inbox), hang, deadline_s=0.05)
    assert told["Status"] == "FAILED"
    assert inbox.answers == [told]


def test_a_person_s_event_is_not_cloudformation_s() -> None:
    assert not is_from_cloudformation(json.loads((EVENTS / "setup.json").read_text()))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ConfigError(["MONGO_URI is not set"]), "Change the stack's parameters"),
        (ImportError("No module named 'pydantic_core._pydantic_core'"), "another processor"),
        (TimeoutError(), "took too long"),
    ],
)
def test_what_is_wrong_comes_with_what_to_do(error: Exception, advice: str) -> None:
    assert advice in explain(error)
