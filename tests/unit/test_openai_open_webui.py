"""Requests in the shapes of Open WebUI 0.6, played against the chat function.

They are written by hand, not recorded: no Open WebUI has run here, and all ids and names are made
up. Read beside the source of 0.6.5 (`routers/openai.py`) they hold more than that version sends:
it takes `metadata` out of a body, and names itself (`HTTP-Referer`, `X-Title`) to openrouter.ai
alone. What is shown is that nothing of the kind is refused, not what one version does.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from local.services import ScriptedModel
from tests.unit.chat_site import ChatSite, chat_site, frames
from tests.unit.openai_site import MODEL

REQUESTS = Path(__file__).parent / "open_webui"
STREAMED = ["chat_stream", "chat_agent", "chat_image", "chat_tools"]


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        yield site


async def play(site: ChatSite, name: str) -> httpx.Response:
    """The answer to such a request; address and key are this site's."""
    kept = json.loads((REQUESTS / f"{name}.json").read_text())
    async with site.client() as client:
        return await client.request(
            kept["method"], f"/v1{kept['path']}", headers=kept["headers"], json=kept["body"]
        )


async def test_its_model_list_shows_models_and_agents(site: ChatSite) -> None:
    listed = [Model.model_validate(one) for one in (await play(site, "models")).json()["data"]]
    assert {one.id for one in listed} == {MODEL, "agent:chat", "agent:news"}


@pytest.mark.parametrize("name", STREAMED)
async def test_its_chats_stream(site: ChatSite, name: str) -> None:
    answer = await play(site, name)
    assert answer.status_code == 200, answer.text
    # It looks at the media type to tell a stream from a document.
    assert "text/event-stream" in answer.headers["content-type"]
    *told, done = frames(answer.text)
    assert done == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate(one, strict=True) for one in told]
    texts = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(texts) == "Hello from the script."


async def test_its_titles_come_whole(site: ChatSite) -> None:
    answer = ChatCompletion.model_validate((await play(site, "title")).json(), strict=True)
    assert answer.choices[0].message.content == "Hello from the script."
