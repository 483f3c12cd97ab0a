"""Models on the servers: seen, loaded, deleted by admins, and pulled by a run to follow."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.agents.model_pulls import PULL, pull_workflow
from lambent.clock import SystemClock
from lambent.engine.registry import Registry
from lambent.errors import NotFound
from lambent.models.library import ModelLibrary
from lambent.models.manager import ModelManager
from lambent.settings import Settings
from lambent.testing import CLIENT, WorkflowTest
from local.services import ScriptedModel
from local.services.scripted import MODEL
from tests.store.test_usage_http import Office, office

LAYER = {"status": "pulling", "digest": "sha256:a", "total": 100}


@pytest.fixture
async def place(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> AsyncIterator[Office]:
    more = {
        "MONGO_URI": mongo_uri, "MONGO_DB_NAME": mongo_db_name,
        "OLLAMA_HOST": f"{scripted_model.host},http://127.0.0.1:9",
    }  # fmt: skip
    async with office(postgres_dsn, **more) as made:
        yield made


async def test_every_server_is_listed_also_one_that_is_away(
    place: Office, scripted_model: ScriptedModel
) -> None:
    scripted_model.held_models.append("big:7b")
    there, away = (await place.get("eye", "/admin/models")).json()["hosts"]
    assert (there["host"], there["error"]) == (scripted_model.host, None)
    assert [(one["name"], one["loaded"]) for one in there["models"]] == [
        (MODEL, True),
        ("big:7b", False),
    ]
    assert (away["error"], away["models"]) == ("The model server cannot be reached.", [])
    shown = (await place.get("eye", f"/admin/models/{MODEL}")).json()
    assert (shown["name"], shown["context_tokens"]) == (MODEL, 8192)
    assert (await place.get("eye", "/admin/models/x?host=http://no")).status_code == 404


async def test_models_are_loaded_unloaded_and_deleted_by_admins_only(
    place: Office, scripted_model: ScriptedModel
) -> None:
    for verb in ("load", "unload", "pull"):
        body = {"model": MODEL}
        assert (await place.ask("POST", "eye", f"/admin/models/{verb}", json=body)).is_client_error
    body = {"model": "big:7b", "keep_alive": "1h"}
    assert (await place.ask("POST", "admin", "/admin/models/load", json=body)).status_code == 204
    assert scripted_model.generations[-1].json["keep_alive"] == "1h"
    assert "big:7b" in scripted_model.loaded_models
    body = {"model": "big:7b"}
    assert (await place.ask("POST", "admin", "/admin/models/unload", json=body)).status_code == 204
    assert "big:7b" not in scripted_model.loaded_models
    assert (await place.ask("DELETE", "admin", f"/admin/models/{MODEL}")).status_code == 204
    assert (await place.ask("DELETE", "admin", f"/admin/models/{MODEL}")).status_code == 404


async def test_a_model_that_only_makes_vectors_is_loaded_and_unloaded_too(
    place: Office, scripted_model: ScriptedModel
) -> None:
    scripted_model.embedding_models = {"all-minilm"}
    for verb, loaded in (("load", True), ("unload", False)):
        body = {"model": "all-minilm"}
        answer = await place.ask("POST", "admin", f"/admin/models/{verb}", json=body)
        assert answer.status_code == 204
        assert ("all-minilm" in scripted_model.loaded_models) is loaded


async def test_a_pull_is_a_run_that_nobody_else_can_start(place: Office) -> None:
    await place.parts.engine.ensure_indexes()
    started = await place.ask("POST", "admin", "/admin/models/pull", json={"model": "new:1b"})
    assert started.status_code == 202, started.text
    run = await place.parts.engine.control.get(started.json()["run"], client="admin")
    assert run.workflow == PULL
    with pytest.raises(NotFound):
        await place.parts.engine.start(PULL, {"model": "x", "host": "h"}, client="ann")
    strange = {"model": "new:1b", "host": "http://169.254.169.254"}
    assert (await place.ask("POST", "admin", "/admin/models/pull", json=strange)).status_code == 404


async def test_a_pull_goes_on_part_by_part_and_tells_how_far_it_is(
    mongo_uri: str, postgres_dsn: str, scripted_model: ScriptedModel
) -> None:
    settings = Settings(
        mongo_uri="mongodb://h", postgres_dsn=postgres_dsn, ollama_host=scripted_model.host
    )
    models = ModelManager(settings, clock=SystemClock())
    workflows = Registry()
    workflows.add(pull_workflow(ModelLibrary(models), part_s=0.0))
    scripted_model.pulls.extend(
        [[{**LAYER, "completed": 30}], [{**LAYER, "completed": 100}], [{"status": "success"}]]
    )
    async with WorkflowTest(mongo_uri, workflows=workflows) as test:
        wanted = {"model": "new:1b", "host": scripted_model.host}
        started = await test.engine.start_internal(PULL, wanted, client=CLIENT, key=None, version=1)
        done = await test.finish(str(started.run["_id"]))
        assert (done["model"], done["host"]) == ("new:1b", scripted_model.host)
        steps = await test.engine.control.steps(str(started.run["_id"]), client=CLIENT)
    told = [one.output for one in steps if one.kind == "progress"]
    assert [(one["completed_bytes"], one["done"]) for one in told] == [
        (30, False),
        (100, False),
        (100, True),
    ]
    assert [one.path for one in scripted_model.requests].count("/api/pull") == 3
    await models.close()
