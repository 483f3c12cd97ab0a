"""What an invocation of the step function does for all its runs, though one of them is broken."""

from __future__ import annotations

from typing import Any

import pytest

from lambent import app
from lambent.clock import FAR_FUTURE
from lambent.engine.registry import registry
from lambent.engine.step import Step
from tests.unit.test_dispatch_nudges import lambda_api


async def test_a_broken_run_fails_its_function_only_after_the_bell_was_rung_for_the_others(
    monkeypatch: pytest.MonkeyPatch, mongo_uri: str, mongo_db_name: str, postgres_dsn: str
) -> None:
    name = mongo_db_name.replace("_", "-")

    @registry.workflow(name)
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(30)

    monkeypatch.setenv("MONGO_URI", mongo_uri)
    monkeypatch.setenv("MONGO_DB_NAME", mongo_db_name)
    monkeypatch.setenv("POSTGRES_DSN", postgres_dsn)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    with lambda_api() as api:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", api.url)
        app.platform.cache_clear()
        engine = app.platform().engine
        ids = [(await engine.start(name, client="c")).run["_id"] for _ in range(2)]
        # No code of ours writes such a document.
        runs = engine.store.mongo.db["runs"]
        await runs.update_one({"_id": ids[0]}, {"$unset": {"base_epoch": ""}})
        await runs.update_one({"_id": ids[0]}, {"$set": {"epoch": 1}})
        api.invokes.clear()
        with pytest.raises(KeyError, match="base_epoch"):
            await app.advance_runs(ids, left_s=60)
        fine = await runs.find_one({"_id": ids[1]})
        await app.platform().dispatch.close()
        await engine.store.close()
        await app.platform().postgres.close()
        app.platform.cache_clear()
    registry._found.pop(name)
    assert fine is not None
    assert (fine["status"], fine["due_at"] < FAR_FUTURE) == ("waiting", True)
    assert [function for function, _ in api.invokes if "poller" in function]
