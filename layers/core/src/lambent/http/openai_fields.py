"""What of OpenAI's requests has no effect here, and what is refused: data, and its two readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lambent.http.openai_errors import Unsupported
from lambent.http.openai_shapes import shown

_SAMPLED = "the model server gives no probabilities of tokens"
_TEXT_ONLY = "models answer in text"

# Whatever their value: they change nothing that a client could see in an answer.
IDLE_CHAT: Final[Mapping[str, str]] = {
    "metadata": "a note to the request; requests are not kept",
    "prediction": "a hint that only makes answers faster",
    "prompt_cache_key": "the model server decides itself what it caches",
    "prompt_cache_options": "the model server decides itself what it caches",
    "prompt_cache_retention": "the model server decides itself what it caches",
    "safety_identifier": "the key already says who asks",
    "service_tier": "there is one tier",
    "user": "the key already says who asks",
}
IDLE_EMBEDDINGS: Final[Mapping[str, str]] = {"user": "the key already says who asks"}

IDLE_RESPONSES: Final[Mapping[str, str]] = {
    "max_tool_calls": "it limits tools that OpenAI runs; here the client runs them",
    "prompt_cache_key": "the model server decides itself what it caches",
    "prompt_cache_options": "the model server decides itself what it caches",
    "prompt_cache_retention": "the model server decides itself what it caches",
    "safety_identifier": "the key already says who asks",
    "service_tier": "there is one tier",
    "stream_options": "padding against an eavesdropper who counts bytes; TLS ends before this",
    "user": "the key already says who asks",
}

# The same within the records of a request; `openai` marks what its client puts into messages that
# it has parsed, for its own use, and sends back with them.
IDLE_WITHIN: Final[Mapping[str, Mapping[str, str]]] = {
    "message": {
        "annotations": "citations of an earlier answer",
        "name": "participants' names have no place in a model server's messages",
        "parsed": "openai",
        "phase": "models are not told at what point a text was said",
    },
    "part": {
        "annotations": "citations of an earlier answer",
        "cache_control": "the model server decides itself what it caches",
        "logprobs": "those of an earlier answer",
        "parsed": "openai",
        "prompt_cache_breakpoint": "the model server decides itself what it caches",
    },
    "item": {"id": "items are not kept by themselves", "status": "only whole ones are sent"},
    "image": {"detail": "the model decides how it looks"},
    "call": {"index": "calls stand in their order", "parsed_arguments": "openai"},
    "stream_options": {"include_obfuscation": "as for responses"},
    "reasoning": {
        "generate_summary": "the older name of summary",
        # Summaries are OpenAI's stand-in for thinking that it hides.
        "summary": "the thinking itself is told",
    },
}
# Thinking of an earlier turn: models do not want it back.
IDLE_ITEM: Final = "reasoning"
# Thinking is told as it is, so there is nothing to encrypt.
IDLE_INCLUDE: Final = "reasoning.encrypted_content"


@dataclass(frozen=True, slots=True)
class Refused:
    """`neutral` are the values that ask for nothing; any other is refused because of `why`."""

    why: str
    neutral: tuple[Any, ...] = ()


REFUSED_CHAT: Final[Mapping[str, Refused]] = {
    "audio": Refused(_TEXT_ONLY),
    "function_call": Refused("it was replaced by tool_choice"),
    "functions": Refused("it was replaced by tools"),
    "logit_bias": Refused("the model server cannot favour tokens", ({},)),
    "logprobs": Refused(_SAMPLED, (False,)),
    "modalities": Refused(_TEXT_ONLY, (["text"],)),
    "moderation": Refused("nothing here moderates"),
    "n": Refused("a request has one answer", (1,)),
    "store": Refused("completions are not kept; /v1/responses keeps", (False,)),
    "top_logprobs": Refused(_SAMPLED, (0,)),
    "verbosity": Refused("models have no such setting; ask for it in the prompt", ("medium",)),
    "web_search_options": Refused("the model does not search; an agent may"),
}

REFUSED_RESPONSES: Final[Mapping[str, Refused]] = {
    "access_programs": Refused("there are none"),
    "background": Refused("start a run for work that nobody waits for", (False,)),
    "background_options": Refused("start a run for work that nobody waits for"),
    "context_management": Refused("the whole conversation goes to the model"),
    "conversation": Refused("go on from a response with previous_response_id"),
    "image": Refused(_TEXT_ONLY),
    "include": Refused("nothing more can be told", ([], [IDLE_INCLUDE])),
    "moderation": Refused("nothing here moderates"),
    "prompt": Refused("no prompts are kept"),
    "top_logprobs": Refused(_SAMPLED, (0,)),
    "truncation": Refused("nothing is left out silently", ("disabled",)),
}


def settle(
    body: Mapping[str, Any], *, idle: Mapping[str, str], refused: Mapping[str, Refused]
) -> dict[str, Any]:
    """The body without idle and neutral fields; raises `Unsupported` for what cannot be kept."""
    left: dict[str, Any] = {}
    for name, value in body.items():
        if name in idle or value is None:
            continue
        if name not in refused:
            left[name] = value
        elif not any(value == one and type(value) is type(one) for one in refused[name].neutral):
            why = refused[name].why
            raise Unsupported(f"{name} {shown(value)} is not supported: {why}.", param=name)
    return left


def check_query(query: Mapping[str, str]) -> None:
    """Raises `Unsupported`: a kept response is told whole, and no parameter is lost silently."""
    for name, value in query.items():
        if (name, value) != ("stream", "false"):
            raise Unsupported(
                f"{name[:60]} is not supported: a kept response is told whole, as it is.",
                param=name[:60],
            )
