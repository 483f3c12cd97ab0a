"""The official client pointed at a chat site, and what tests of OpenAI's API share."""

from __future__ import annotations

from typing import Any, Final

from openai import AsyncOpenAI

from local.services import ScriptedModel
from tests.unit.chat_site import ChatSite

MODEL: Final = "smollm2:135m"
WHY: Final[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
ASKED: Final = {"model": MODEL, "messages": WHY}
WEATHER: Final[Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TIME: Final[Any] = {
    "type": "function",
    "function": {"name": "time", "parameters": {"$ref": "#/$defs/T", "$defs": {"T": {}}}},
}


def openai_client(site: ChatSite, key: str | None = None) -> AsyncOpenAI:
    """The client as a user makes it, but without its retries."""
    url = f"{site.url}/v1"
    return AsyncOpenAI(base_url=url, api_key=site.key if key is None else key, max_retries=0)


def generation(model: ScriptedModel) -> Any:
    """The one request that reached the model server."""
    (made,) = model.generations
    return made.json
