"""The tools of a plain agent's memory, where another host holds the embedding model."""

from __future__ import annotations

from local.services import Reply, ScriptedModel
from local.services.scripted import MODEL
from tests.store.durable_site import frames, functions

VECTORS = "all-minilm:latest"


async def test_a_plain_agent_remembers_and_recalls_through_another_hosts_model(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str
) -> None:
    with ScriptedModel.start() as one, ScriptedModel.start() as two:
        one.unknown_models = {"all-minilm"}
        two.held_models, two.loaded_models, two.unknown_models = [VECTORS], [], {MODEL}
        one.script(
            Reply.calls(("remember", {"text": "The key is under the mat."})),
            Reply.calls(("recall", {"question": "Where is the key?"})),
            Reply.text("Under the mat."),
        )
        async with functions(
            1, postgres_dsn, mongo_uri, mongo_db_name, f"{one.host},{two.host}",
            agent_modules=("tests.store.memory_agents",), embedding_model="all-minilm",
        ) as (function,), function.client() as client:  # fmt: skip
            asked = {"agent": "diary", "input": "Remember the key."}
            answer = await client.post("/chat/stream", json=asked)
    results = [one["tool_result"] for one in frames(answer.text) if "tool_result" in one]
    assert [one["content"] for one in results] == [
        "It is remembered.", '["The key is under the mat."]',
    ]  # fmt: skip
