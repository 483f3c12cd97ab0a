"""The admin command line, as people type it, against a gateway over real stores."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import pytest
import uvicorn

from lambent.admission.decisions import Scope
from tests.functions.admin_site import AdminSite, admin_site
from tests.functions.stack import ROOT


@pytest.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[AdminSite]:
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name) as made:
        yield made


async def said(site: AdminSite, *words: str, scopes: tuple[Scope, ...] = ()) -> tuple[int, str]:
    """What the command answered; the gateway is served while it runs."""
    config = uvicorn.Config(site.app, port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    environ = {**os.environ, "LAMBENT_URL": url, "LAMBENT_ADMIN_KEY": await site.key(*scopes)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local", "admin", *words,
        cwd=ROOT, env={**environ, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    server.should_exit = True
    await serving
    return process.returncode or 0, output.decode()


async def test_runs_are_listed_as_a_table(site: AdminSite) -> None:
    run = await site.run()
    code, text = await said(site, "runs", "status=pending")
    assert code == 0
    assert run in text
    assert "pending" in text


async def test_json_is_the_apis_own_answer(site: AdminSite) -> None:
    run = await site.run()
    _, text = await said(site, "--json", "run", run)
    assert json.loads(text)["id"] == run


async def test_a_refusal_is_told_in_the_apis_words(site: AdminSite) -> None:
    run = await site.run()
    code, text = await said(site, "run", run, "cancel", scopes=(Scope.ADMIN_READ,))
    assert code == 1
    assert "403" in text
    assert "scope" in text


async def test_a_keys_limits_are_changed_and_a_wrong_one_is_named(site: AdminSite) -> None:
    made = await site.parts.keys.create("search", "laptop", scopes=[Scope.CHAT])
    words = ("key", made.key.id, "change", "limit=7", "name=desk")
    code, text = await said(site, *words, 'budgets=[{"period":"day","unit":"tokens","hard":9}]')
    assert (code, json.loads(text)["limit"]) == (0, 7), text
    assert [one.hard for one in await site.parts.budgets.list(key=made.key.id)] == [9]
    code, text = await said(site, "key", made.key.id, "change", "limit=0")
    assert code == 1
    assert "limit: Input should be greater than" in text
    kept = await site.parts.keys.get(made.key.id)
    assert (kept.name, kept.limit) == ("desk", 7)
    entries = (await site.parts.audit.find(action="change_key", target=made.key.id)).entries
    assert [one.outcome for one in entries] == [422, 200]
