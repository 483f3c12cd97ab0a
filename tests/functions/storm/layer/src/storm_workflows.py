"""The workflows of the kill storm: what each step does leaves a trace that no crash can take back.

A trace is one line of a file, appended by the body of a step: whose it is, a token of its own, and
a digest of all that the code had been given before. So afterwards one can tell whether a recorded
checkpoint is that of an effect which happened, and whether any slice was ever told anything else.
"""

import asyncio
import hashlib
import json
import os
import random
import uuid

from lambent.engine.options import Retry
from lambent.engine.registry import workflow

PATIENT = Retry(attempts=50, first_s=0.2, cap_s=1.0)
EVENT_WAIT_S = 3600


class Tale:
    """What one run has been told so far."""

    def __init__(self, step, input):
        self.step = step
        self.path = input["traces"]
        self.lasts_s = input["lasts_s"]
        self.told = []

    def digest(self):
        return hashlib.sha256(json.dumps(self.told).encode()).hexdigest()[:16]

    async def act(self, name, *, flaky=False):
        """A step with an effect; what it gives back is part of what comes after."""
        self.told.append(await self.perform(name, self.digest(), flaky=flaky))

    async def perform(self, name, told, *, flaky=False):
        retry = PATIENT if flaky else None
        return await self.step.do(name, self._effect, name, told, flaky, retry=retry)

    async def _effect(self, name, told, flaky):
        await asyncio.sleep(random.uniform(0, self.lasts_s) / 2)
        if flaky and random.random() < 0.4:
            raise RuntimeError("one of those days")
        token = uuid.uuid4().hex
        trace = {"run": self.step.run_id, "step": name, "token": token, "told": told}
        leave(self.path, trace | {"pid": os.getpid()})
        # Long enough for many to be killed here: after the effect, and before the checkpoint.
        await asyncio.sleep(random.uniform(self.lasts_s, self.lasts_s * 2))
        return token

    async def hear(self, name, type, **wanted):
        event = await self.step.wait_for_event(name, type=type, timeout=EVENT_WAIT_S, **wanted)
        self.told.append(event.data)
        return event.data


def leave(path, trace):
    """One write, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(trace).encode() + b"\n")
    finally:
        os.close(descriptor)


@workflow("storm")
async def storm(step, input):
    """Twenty steps: ten in a row, three side by side, four waits, a sleep, an event, an instant."""
    tale, subject = Tale(step, input), input["subject"]
    await tale.act("a0")
    await tale.act("a1")
    first = await tale.hear("first", "storm.first", subject=subject)
    await tale.act("a2")
    told = tale.digest()
    names = ["part-0", "part-1", "part-2"]
    tale.told += await step.map("fan", names, lambda name: tale.perform(name, told), limit=2)
    await tale.act("a3")
    await step.sleep(input["sleep_s"])
    await tale.act("a4")
    pair = [await tale.hear(name, "storm.pair", subject=subject) for name in ("one", "two")]
    await tale.act("a5", flaky=True)
    await step.publish("storm.told", input, subject=subject)
    await tale.act("a6")
    tale.told.append((await step.now()).isoformat())
    await tale.act("a7")
    late = await tale.hear("late", "storm.late", where={"data.subject": subject})
    await tale.act("a8")
    if input["leaf"]:
        child = await step.start("storm-leaf", {**input, "subject": f"{subject}/leaf"})
        tale.told.append(await child)
    await tale.act("a9")
    return {"first": first, "pair": pair, "late": late, "digest": tale.digest()}


@workflow("plod")
async def plod(step, input):
    """One step after the other, for tests that do something to the process in between."""
    tale = Tale(step, input)
    for number in range(input["steps"]):
        await tale.act(f"n{number}")
    return tale.digest()


@workflow("storm-leaf")
async def leaf(step, input):
    """A child; its parent waits for it."""
    tale = Tale(step, input)
    await tale.act("a0")
    await tale.act("a1")
    return tale.digest()


@workflow("storm-echo", on="storm.told")
async def echo(step, input):
    """Started by the event that each storm publishes."""
    await Tale(step, input["data"]).act("a0")
    return input["data"]["subject"]
