"""The examination after a storm finds each kind of broken promise."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from lambent.clock import EPOCH, FAR_FUTURE
from tests.functions.storm.findings import judge, told_digest

AT_REST: dict[str, Any] = {"lease": None, "lease_until": EPOCH, "due_at": FAR_FUTURE, "owes": []}
Store = dict[str, Any]


def step(key: str, output: str) -> dict[str, Any]:
    return {"_id": f"r/0/{key}", "run": "r", "epoch": 0, "key": key, "kind": "do", "output": output}


def line(key: str, token: str, *told: str) -> dict[str, Any]:
    return {"run": "r", "step": key, "token": token, "told": told_digest([*told]), "pid": 1}


def calm() -> Store:
    """A leaf of two steps that came to its end; its storm is of no matter here."""
    run = {"_id": "r", "key": "k", "workflow": "storm-leaf", "status": "completed", **AT_REST}
    steps = [step("a0", "t0"), step("a1", "t1")]
    lines = [line("a0", "t0"), line("a1", "lost", "t0"), line("a1", "t1", "t0")]
    return {"runs": [run], "steps": steps, "waits": [], "events": [], "lines": lines, "seen": {}}


def problems_of(store: Store) -> list[str]:
    found = judge(store, {}, store["lines"], seen=store["seen"]).problems
    # The numbers of runs and events are those of a whole storm.
    return [one for one in found if not one.startswith(("runs: ", "events: "))]


def changed(store: Store) -> None:
    store["seen"]["r/0/a0"] = step("a0", "another")


def forged(store: Store) -> None:
    store["steps"][1]["output"] = "t9"


def told_otherwise(store: Store) -> None:
    store["lines"].append(line("a1", "t2", "what a zombie was told"))


def leased(store: Store) -> None:
    store["runs"][0]["lease"] = "someone"


def due(store: Store) -> None:
    store["runs"][0]["due_at"] = EPOCH


def failed(store: Store) -> None:
    store["runs"][0] |= {"status": "failed", "blocked": None, "error": "why"}


def open_wait(store: Store) -> None:
    wait = {"_id": "w", "run": "r", "epoch": 0, "key": "x", "kind": "wait", "record": None}
    store["waits"].append(wait | {"status": "open", "event": "open:w"})


def lost_event(store: Store) -> None:
    event = {"_id": "e", "id": "s0/first", "source": "storm", "status": "delivered", **AT_REST}
    store["events"].append(event)


def test_a_run_that_went_well_has_no_problems() -> None:
    assert problems_of(calm()) == []


@pytest.mark.parametrize(
    "harm", [changed, forged, told_otherwise, leased, due, failed, open_wait, lost_event]
)
def test_each_broken_promise_is_found(harm: Callable[[Store], None]) -> None:
    store = deepcopy(calm())
    harm(store)
    assert problems_of(store), harm.__name__
