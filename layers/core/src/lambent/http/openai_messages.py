"""Translates the messages of a chat completion into the model server's."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from lambent.http.bodies import is_finite
from lambent.http.openai_errors import BadParam, MissingParam, Unsupported
from lambent.http.openai_fields import IDLE_WITHIN
from lambent.http.openai_shapes import a_list, a_name, a_text, an_object, one_of, only
from lambent.models.values import Message, Role, ToolCall

_MOST_MESSAGES: Final = 2000
_MOST_PARTS: Final = 256
_ROLES: Final[Mapping[str, Role]] = {
    "system": Role.system,
    "developer": Role.system,
    "user": Role.user,
    "assistant": Role.assistant,
    "tool": Role.tool,
}
_FIELDS: Final = {"role", "content", "name"}
# `reasoning_content` and `reasoning` are how clients hand thinking back that servers gave them.
_ASSISTANT: Final = {
    *_FIELDS, "annotations", "parsed", "reasoning", "reasoning_content", "refusal", "tool_calls",
}  # fmt: skip
_PARTS: Final[Mapping[Role, frozenset[str]]] = {
    Role.system: frozenset({"text"}),
    Role.user: frozenset({"text", "image_url"}),
    Role.assistant: frozenset({"text", "refusal"}),
    Role.tool: frozenset({"text"}),
}


def read_messages(value: Any) -> tuple[Message, ...]:
    """Raises `BadParam` and its kin; at least one message comes back."""
    listed = a_list(value, "messages", most=_MOST_MESSAGES)
    if not listed:
        raise BadParam("messages must not be empty.", param="messages")
    names: dict[str, str] = {}
    return tuple(_read(one, f"messages[{n}]", names) for n, one in enumerate(listed))


def _read(value: Any, at: str, names: dict[str, str]) -> Message:
    said = an_object(value, at)
    role = _ROLES[one_of(said.get("role"), _ROLES, f"{at}.role")]
    match role:
        case Role.assistant:
            return _read_assistant(said, at, names)
        case Role.tool:
            return _read_tool(said, at, names)
        case _:
            only(said, _FIELDS, at)
            text, images = read_content(said.get("content"), role, f"{at}.content")
            return Message(role=role, content=text, images=images)


def _read_assistant(said: Mapping[str, Any], at: str, names: dict[str, str]) -> Message:
    only(said, _ASSISTANT, at)
    calls = said.get("tool_calls")
    listed = [] if calls is None else a_list(calls, f"{at}.tool_calls", most=_MOST_PARTS)
    made = tuple(_read_call(one, f"{at}.tool_calls[{n}]") for n, one in enumerate(listed))
    names.update({call.id: call.name for call in made if call.id})
    content = said.get("content")
    if content is None:
        content = said.get("refusal")
    if content is None and not made:
        raise MissingParam(f"{at}.content is missing.", param=f"{at}.content")
    text, _ = read_content("" if content is None else content, Role.assistant, f"{at}.content")
    thinking = said.get("reasoning_content") or said.get("reasoning") or ""
    return Message(
        role=Role.assistant,
        content=text,
        thinking=a_text(thinking, f"{at}.reasoning_content"),
        tool_calls=made,
    )


def _read_call(value: Any, at: str) -> ToolCall:
    call = an_object(value, at)
    one_of(call.get("type", "function"), {"function"}, f"{at}.type")
    only(call, {"id", "type", "function", "index"}, at)
    function = an_object(call.get("function"), f"{at}.function")
    return ToolCall(
        a_name(function.get("name"), f"{at}.function.name"),
        read_arguments(function.get("arguments"), f"{at}.function.arguments"),
        a_text(call.get("id"), f"{at}.id", most=200),
    )


def read_arguments(value: Any, at: str) -> dict[str, Any]:
    """The JSON object in a call's `arguments`."""
    text = a_text(value, at)
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        raise BadParam(f"{at} holds no JSON.", param=at) from None
    if not isinstance(arguments, dict):
        raise BadParam(f"{at} must hold a JSON object.", param=at)
    if not is_finite(arguments):  # NaN and such, which Python reads
        raise BadParam(f"{at} holds a number that JSON does not have.", param=at)
    return arguments


def _read_tool(said: Mapping[str, Any], at: str, names: Mapping[str, str]) -> Message:
    only(said, _FIELDS | {"tool_call_id"}, at)
    text, _ = read_content(said.get("content"), Role.tool, f"{at}.content")
    call_id = a_text(said.get("tool_call_id"), f"{at}.tool_call_id", most=200)
    if call_id not in names:
        raise BadParam(
            f"{at}.tool_call_id answers no call of an assistant's message before it.",
            param=f"{at}.tool_call_id",
        )
    return Message(role=Role.tool, content=text, tool_name=names[call_id], tool_call_id=call_id)


def read_content(value: Any, role: Role, at: str) -> tuple[str, tuple[str, ...]]:
    """Text and images of a message's content: a text, or an array of parts."""
    if isinstance(value, str):
        return a_text(value, at), ()
    texts: list[str] = []
    images: list[str] = []
    for number, one in enumerate(a_list(value, at, most=_MOST_PARTS)):
        here = f"{at}[{number}]"
        part = an_object(one, here)
        kind = _kind(part.get("type"), role, f"{here}.type")
        only(part, {"type", kind, *IDLE_WITHIN["part"]}, here)
        if kind == "image_url":
            image = an_object(part.get("image_url"), f"{here}.image_url")
            only(image, {"url", *IDLE_WITHIN["image"]}, f"{here}.image_url")
            images.append(read_image(image.get("url"), f"{here}.image_url.url"))
        else:
            texts.append(a_text(part.get(kind), f"{here}.{kind}"))
    return "\n".join(texts), tuple(images)


def _kind(value: Any, role: Role, at: str) -> str:
    if value in {"input_audio", "file"} if isinstance(value, str) else False:
        raise Unsupported(
            f"{at} {value!r} is not supported: models read text and images.", param=at
        )
    return one_of(value, _PARTS[role], at)


def read_image(value: Any, at: str) -> str:
    """The base64 of a data URL. Nothing is fetched for a client: other addresses are refused."""
    url = a_text(value, at, most=8_000_000)
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise Unsupported(
            f"{at} must be a data URL (data:image/png;base64,...): images are not fetched.",
            param=at,
        )
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadParam(f"{at} holds no base64.", param=at) from None
    if not data:
        raise BadParam(f"{at} holds no image.", param=at)
    return data
