"""Workflows in which everything happens that a run's page has to show."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambent.engine.options import Retry
from lambent.engine.registry import workflow

_TWO = Retry(attempts=3, first_s=0.4, jitter=False)
_tried: dict[str, int] = {}


@workflow("trial.child")
async def child(step: Any, input: Any) -> Any:
    """Doubles a number."""
    return await step.do("double", lambda: 2 * input)


def _shaky(run: str) -> str:
    _tried[run] = _tried.get(run, 0) + 1
    if _tried[run] < 3:
        raise ConnectionError(f"attempt {_tried[run]}: <b>the till</b> did not answer")
    return "paid"


def _ship(order: dict[str, Any]) -> None:
    raise KeyError(order["missing"])


@workflow("trial", retry=_TWO)
async def trial(step: Any, input: Any) -> Any:
    """Retries, lanes side by side, a child, a death, a wait, a log, and what goes wrong."""
    step.log("An order came in", number=input.get("number", 0))
    await step.do("charge", _shaky, step.run_id)
    await step.gather(
        step.do("pack", lambda: asyncio.sleep(0.3)), step.do("label", lambda: asyncio.sleep(0.1))
    )
    made = await (await step.start("trial.child", 21, name="sums"))
    if input.get("slow"):
        await step.do("slow", lambda: asyncio.sleep(4))
    step.log.warning("Waits for somebody", made=made)
    await step.wait_for_event("approval", type="trial.approved", subject=step.run_id)
    step.log("Somebody approved")
    if input.get("fails"):
        await step.do("ship", _ship, {"missing": "address"}, retry=Retry(attempts=1))
    return {"made": made}


@workflow("trial.many")
async def many(step: Any, input: Any) -> Any:
    """As many steps as are asked for."""
    for number in range(int(input["steps"])):
        await step.do(f"n{number}", lambda n=number: {"number": n, "text": "x" * 200})


def _gone(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.05)


async def _hold(gate: str) -> None:
    await asyncio.to_thread(_gone, gate)


async def _jam(run: str, gate: str) -> None:
    _tried[run] = _tried.get(run, 0) + 1
    if _tried[run] == 1:
        raise ConnectionError("the oven is cold")
    await _hold(gate)


@workflow("trial.held", retry=_TWO)
async def held(step: Any, input: Any) -> Any:
    """Two steps side by side that go on until their files are there."""
    await step.do("mix", lambda: asyncio.sleep(0.5))
    await step.gather(
        step.do("bake", _jam, step.run_id, input["bake"]), step.do("wash", _hold, input["wash"])
    )


@dataclass(frozen=True, slots=True)
class Order:
    """What has to be told, and what may be."""

    title: str
    pieces: int = 1


@workflow("trial.order", input=Order)
async def order(step: Any, input: Any) -> Any:
    """Gives back what was ordered."""
    return input
