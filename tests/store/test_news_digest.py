"""The news digest across a deploy that changes its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lambent.engine.registry import Registry, registry
from lambent.testing import WorkflowTest
from lambent_agents import digest
from lambent_agents.digest import DECIDED

# Within the network, and so refused: told in `bad`, without a site that answers.
FIRST, OTHERS = "http://10.0.0.1/first", "http://10.0.0.1/a,http://10.0.0.1/b"


@pytest.fixture
def workflows() -> Registry:
    return registry


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def deployed(feeds: str) -> None:
        monkeypatch.setenv("NEWS_FEEDS", feeds)
        digest._settings.cache_clear()

    monkeypatch.setenv("MONGO_URI", "mongodb://h")
    monkeypatch.setenv("POSTGRES_DSN", "postgresql://h")
    yield deployed
    digest._settings.cache_clear()


async def finished(test: WorkflowTest, deploy: Callable[[str], None], **options: Any) -> Any:
    deploy(FIRST)
    run_id = await test.start("news.digest", {"approval": True}, **options)
    await test.settle()
    assert (await test.run(run_id)).status == "waiting"
    deploy(FIRST if options.get("version") == 1 else OTHERS)
    await test.send(DECIDED, {"approved": True}, subject=run_id)
    return await test.finish(run_id)


async def test_a_deploy_with_other_feeds_changes_nothing_for_a_run_that_waits(
    test: WorkflowTest, deploy: Callable[[str], None]
) -> None:
    output = await finished(test, deploy)
    assert [one["url"] for one in output["bad"]] == [FIRST]
    assert output["status"] == "published"


async def test_a_run_of_the_version_before_goes_on_as_it_began(
    test: WorkflowTest, deploy: Callable[[str], None]
) -> None:
    assert (await finished(test, deploy, version=1))["status"] == "published"
