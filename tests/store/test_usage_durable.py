"""A durable agent's turn is paid for by the key that asked, whoever advances its run."""

from __future__ import annotations

from lambent.admission.reports import GroupBy, UsageFilter, UsageReports
from local.services import Reply, ScriptedModel
from tests.store.durable_site import ASK, frames, functions


async def test_every_round_is_booked_on_key_and_agent(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("note", {"word": "a"})), Reply.text("All is noted."))
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    async with functions(1, *places) as (one,):
        async with one.client() as client:
            answer = await client.post("/chat/stream", json=ASK)
        await one.until_run("completed")
        by = [GroupBy.CLIENT, GroupBy.KEY, GroupBy.AGENT]
        (row,) = await UsageReports(one.parts.postgres).rows(UsageFilter(), by=by)
    told = frames(answer.text)[-2]["usage"]
    assert (row.client, row.key, row.agent) == ("ann", one.key.split("_")[1], "clerk")
    assert (row.requests, row.broken) == (2, 0)
    assert (row.prompt_tokens, row.completion_tokens) == (
        told["prompt_tokens"],
        told["completion_tokens"],
    )


async def test_what_its_tools_embed_is_booked_on_the_same_key_and_agent(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("remember", {"text": "It rained."})), Reply.text("Noted."))
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    async with functions(1, *places) as (one,):
        async with one.client() as client:
            await client.post("/chat/stream", json={"agent": "diarist", "input": "It rained."})
        await one.until_run("completed")
        by = [GroupBy.CLIENT, GroupBy.KEY, GroupBy.AGENT, GroupBy.MODEL]
        rows = await UsageReports(one.parts.postgres).rows(UsageFilter(), by=by)
        models = {one.parts.settings.embedding_model, scripted_model.model}
    assert {row.model for row in rows} == models
    payer = ("ann", one.key.split("_")[1], "diarist")
    assert {(row.client, row.key, row.agent) for row in rows} == {payer}
