"""Runs the whole platform with the workflows of the durable benchmarks in its functions."""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from lambent.clock import SystemClock
from lambent.mongo import Mongo
from local.benches.running import ROOT, Running, running_platform

MODULE: Final = "bench_workflows"
# They answer with the instants at which they were reached: one clock serves the whole machine.
_WORKFLOWS: Final = '''"""Workflows and agents of the benchmarks."""

import time

from lambent.agents.agent import agent
from lambent.agents.tool_agent import ToolAgent
from lambent.agents.tools import tool
from lambent.engine.registry import workflow


@tool
async def echo(word: str) -> str:
    """Say a word."""
    return word


@agent("bench-plain", description="Calls a tool.", tools=[echo])
class PlainAgent(ToolAgent): ...


@agent("bench-durable", description="Calls a tool, durably.", tools=[echo], durable=True)
class DurableAgent(ToolAgent): ...


@workflow("bench-start")
async def started(step, input):
    return await step.do("reached", time.time)


@workflow("bench-signal")
async def signalled(step, input):
    await step.wait_for_event("go", type="bench.go", subject=input["subject"], timeout=600)
    return await step.do("reached", time.time)


@workflow("bench-timer")
async def timed(step, input):
    await step.sleep(input["seconds"])
    return await step.do("reached", time.time)
'''


@dataclass(frozen=True, slots=True)
class Durable:
    """A running platform and a client of its API."""

    platform: Running
    api: httpx.Client

    def start(self, workflow: str, input: Any = None) -> str:
        """The id of the new run."""
        answer = self.api.post("/runs", json={"workflow": workflow, "input": input})
        return str(answer.raise_for_status().json()["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/runs/{run_id}").raise_for_status().json()
        return found

    def until(self, run_id: str, *statuses: str, limit_s: float = 90.0) -> dict[str, Any]:
        """The run once it has one of these statuses; raises RuntimeError if it never does."""
        until_s = time.monotonic() + limit_s
        time.sleep(0.2)  # asking at once would take the processors from what is measured
        while (found := self.run(run_id))["status"] not in statuses:
            if time.monotonic() > until_s or found["status"] in ("failed", "blocked"):
                raise RuntimeError(f"the run is {found['status']}: {found}")
            time.sleep(0.1)
        return found


@contextmanager
def durable_platform(**environ: str) -> Iterator[Durable]:
    """Real function processes behind the local emulator, with `MODULE` among the agents."""
    with tempfile.TemporaryDirectory(prefix="lambent-bench-") as folder:
        template = _template(Path(folder))
        modules = f"lambent_agents.chat,lambent_agents.news,{MODULE}"
        settings = {"RATE_LIMIT_MAX_REQUESTS": "1000000", "AGENT_MODULES": modules, **environ}
        with running_platform("--template", str(template), **settings) as platform:
            key = {"name": "bench", "client": "bench", "scopes": ["runs", "events"]}
            made = httpx.post(f"{platform.url}/keys", headers=platform.headers, json=key)
            headers = {"authorization": f"Bearer {made.raise_for_status().json()['key']}"}
            with httpx.Client(base_url=platform.url, headers=headers, timeout=30) as api:
                yield Durable(platform, api)


async def insert_ms(durable: Durable, rounds: int) -> list[float]:
    """What the store itself takes for one durable write, in the same run."""
    mongo = Mongo(durable.platform.ready["mongo_uri"], "bench_floor", clock=SystemClock())
    took_ms = []
    for number in range(rounds):
        begun_s = time.perf_counter()
        document: dict[str, Any] = {"_id": number, "data": "x" * 200}
        await mongo.db["floor"].insert_one(document)
        took_ms.append((time.perf_counter() - begun_s) * 1000)
    await mongo.close()
    return took_ms


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """p50, p95 and p99."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return statistics.median(values), cuts[94], cuts[98]


def _template(folder: Path) -> Path:
    """The project's own template, its agents' layer replaced by a copy with our module in it."""
    agents = folder / "agents"
    shutil.copytree(ROOT / "layers/agents/src", agents / "src")
    (agents / "src" / f"{MODULE}.py").write_text(_WORKFLOWS)
    text = (ROOT / "template.yaml").read_text()
    text = re.sub(r"(ContentUri|CodeUri): (\S+)", rf"\1: {ROOT}/\2", text)
    text = text.replace(f"{ROOT}/layers/agents", str(agents))
    template = folder / "template.yaml"
    template.write_text(text)
    return template
