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
    words = ("--json", "key", made.key.id, "change", "limit=7", "name=desk")
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


async def test_a_key_is_made_and_a_budget_set_by_named_commands(site: AdminSite) -> None:
    words = ("--json", "keys", "create", "name=ci", "client=ci", 'scopes=["chat"]')
    code, text = await said(site, *words)
    made = json.loads(text)
    assert (code, made["key"][:4]) == (0, "lam_"), text
    hard = 'budgets=[{"period":"day","unit":"tokens","hard":9}]'
    code, text = await said(site, "budget", "key", made["id"], "set", hard)
    assert code == 0, text
    assert [one.hard for one in await site.parts.budgets.list(key=made["id"])] == [9]


async def test_an_event_is_published_and_shown_by_its_type(site: AdminSite) -> None:
    code, text = await said(site, "events", "publish", "type=order.placed", 'data={"total":1}')
    assert code == 0, text
    code, text = await said(site, "events", "type=order.placed")
    assert code == 0
    assert "order.placed" in text


async def test_a_host_is_named_by_its_address(site: AdminSite) -> None:
    code, text = await said(site, "host", "http://127.0.0.1:9", "trip", "open_s=60")
    assert (code, text) == (0, "Done.\n")
    _, text = await said(site, "hosts")
    assert "open" in text


async def test_one_thing_is_shown_line_by_line_and_a_csv_as_it_is(site: AdminSite) -> None:
    run = await site.run()
    code, text = await said(site, "run", run)
    assert code == 0
    assert f"id          {run}" in text
    code, text = await said(site, "usage", "format=csv")
    assert (code, text.split(",")[0]) == (0, "day")
