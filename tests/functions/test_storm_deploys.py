"""A run stays on its version whatever is deployed meanwhile, and changed code is caught."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.functions.storm.deployed import deployed, tick_every
from tests.functions.storm.following import published, reached, read_run, started

MODULE = "pinned_workflows"
HEAD = '''"""Workflows as one deploy has them."""

from lambent.engine.registry import workflow


async def go(step):
    return await step.wait_for_event("go", type="test.go", subject=step.run_id, timeout=3600)

'''
PINNED = """
@workflow("pinned", version={version})
async def pinned_{version}(step, input):
    before = await step.do("before", lambda: "version {version}")
    await go(step)
    return [before, await step.do("after", lambda: "version {version}")]

"""
LEAVING = PINNED.replace("pinned", "leaving")
RENAMED = """
@workflow("renamed")
async def renamed(step, input):
    await step.do("{first}", lambda: 1)
    await go(step)
    return await step.do("last", lambda: 2)

"""
RESHAPED = """
@workflow("reshaped")
async def reshaped(step, input):
    await step.{call}
    await go(step)
    return await step.do("last", lambda: 2)

"""
FIRST = [
    PINNED.format(version=1),
    LEAVING.format(version=1),
    RENAMED.format(first="fetch"),
    RESHAPED.format(call='do("fetch", lambda: 1)'),
]
SECOND = [
    PINNED.format(version=1),
    PINNED.format(version=2),
    LEAVING.format(version=2),
    RENAMED.format(first="load"),
    RESHAPED.format(call='sleep(0, name="fetch")'),
]
THIRD = [*SECOND, LEAVING.format(version=1)]
LIMIT_S = 60.0


@contextmanager
def deploy(folder: Path, name: str, workflows: list[str]) -> Iterator[httpx.Client]:
    """The platform over the data of the deploy before it, with other workflows."""
    layer = folder / name
    (layer / "src").mkdir(parents=True)
    (layer / "src" / f"{MODULE}.py").write_text(HEAD + "".join(workflows))
    with (
        deployed(folder / "data", layer=layer, module=MODULE, edits=[tick_every(5)]) as stack,
        stack.client() as client,
    ):
        yield client


def wait_for_go(client: httpx.Client, run_id: str) -> None:
    reached(client, run_id, "waiting", limit_s=LIMIT_S)


def blocked(client: httpx.Client, run_id: str) -> tuple[str, str]:
    run: dict[str, Any] = reached(client, run_id, "blocked", "failed", limit_s=LIMIT_S)
    assert run["status"] == "blocked", run
    return run["blocked"]["reason"], run["blocked"]["detail"]


def test_runs_outlive_deploys_on_the_version_they_began_with(tmp_path: Path) -> None:
    with deploy(tmp_path, "first", FIRST) as client:
        names = ("pinned", "leaving", "renamed", "reshaped")
        runs = {name: started(client, name) for name in names}
        for run_id in runs.values():
            wait_for_go(client, run_id)
    with deploy(tmp_path, "second", SECOND) as client:
        for run_id in runs.values():
            published(client, "test.go", run_id, run_id)
        pinned = reached(client, runs["pinned"], "completed", "blocked", limit_s=LIMIT_S)
        assert (pinned["version"], pinned["output"]) == (1, ["version 1"] * 2)
        assert read_run(client, started(client, "pinned"))["version"] == 2
        assert blocked(client, runs["leaving"])[0] == "no code"
        for name in ("renamed", "reshaped"):
            reason, detail = blocked(client, runs[name])
            assert reason == "nondeterministic"
            assert "'fetch'" in detail, detail
    with deploy(tmp_path, "third", THIRD) as client:
        leaving = reached(client, runs["leaving"], "completed", limit_s=LIMIT_S)
        assert (leaving["version"], leaving["output"]) == (1, ["version 1"] * 2)
