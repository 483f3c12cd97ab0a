"""Translates the input items of a response into the model server's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from lambent.http.openai_errors import BadParam, Unsupported
from lambent.http.openai_fields import IDLE_ITEM, IDLE_WITHIN
from lambent.http.openai_messages import read_arguments, read_image
from lambent.http.openai_shapes import a_list, a_name, a_text, an_object, one_of, only
from lambent.models.values import Message, Role, ToolCall

_MOST_ITEMS: Final = 2000
_MOST_PARTS: Final = 256
_ROLES: Final[Mapping[str, Role]] = {
    "system": Role.system,
    "developer": Role.system,
    "user": Role.user,
    "assistant": Role.assistant,
}
_KINDS: Final = {"message", "function_call", "function_call_output", IDLE_ITEM}
_IDLE: Final = frozenset(IDLE_WITHIN["item"])
_TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


def read_input(value: Any, *, alone: bool) -> tuple[Message, ...]:
    """A text, or items. `alone`: no conversation goes before, so every call must be among them.

    Without it, a tool's message whose call is not here has no `tool_name` yet: see `named`.
    """
    if isinstance(value, str):
        return (Message(role=Role.user, content=a_text(value, "input")),)
    items = a_list(value, "input", most=_MOST_ITEMS)
    if not items:
        raise BadParam("input must not be empty.", param="input")
    messages: list[Message] = []
    for number, one in enumerate(items):
        _add(messages, an_object(one, f"input[{number}]"), f"input[{number}]")
    if not messages:
        raise BadParam("input holds nothing that is said.", param="input")
    return named(messages, ()) if alone else tuple(messages)


def named(messages: Sequence[Message], earlier: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, each tool's with the name of the call that it answers; raises `BadParam`."""
    names: dict[str | None, str] = {}
    found = []
    for message in (*earlier, *messages):
        names.update({call.id: call.name for call in message.tool_calls})
        if message.role is not Role.tool or message.tool_name:
            found.append(message)
            continue
        if message.tool_call_id not in names:
            said = f"input answers a call {message.tool_call_id!r} that was never made."
            raise BadParam(said, param="input")
        found.append(replace(message, tool_name=names[message.tool_call_id]))
    return tuple(found[len(earlier) :])


def _add(messages: list[Message], item: Mapping[str, Any], at: str) -> None:
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind not in _KINDS:
        raise Unsupported(f"{at}.type {kind[:60]!r} is not supported.", param=f"{at}.type")
    match one_of(kind, _KINDS, f"{at}.type"):
        case "message":
            messages.append(_read_message(item, at))
        case "function_call":
            _add_call(messages, item, at)
        case "function_call_output":
            only(item, {"type", "call_id", "output", *_IDLE}, at)
            text, images = _read_parts(item.get("output"), f"{at}.output")
            if images:
                raise BadParam(f"{at}.output: only a user shows images.", param=f"{at}.output")
            call_id = a_text(item.get("call_id"), f"{at}.call_id", most=200)
            messages.append(Message(role=Role.tool, content=text, tool_call_id=call_id))
        case _:
            only(item, {"type", "summary", "content", "encrypted_content", *_IDLE}, at)


def _read_message(item: Mapping[str, Any], at: str) -> Message:
    only(item, {"type", "role", "content", "phase", *_IDLE}, at)
    role = _ROLES[one_of(item.get("role"), _ROLES, f"{at}.role")]
    text, images = _read_parts(item.get("content"), f"{at}.content")
    if images and role is not Role.user:
        raise BadParam(f"{at}.content: only a user shows images.", param=f"{at}.content")
    return Message(role=role, content=text, images=images)


def _add_call(messages: list[Message], item: Mapping[str, Any], at: str) -> None:
    only(item, {"type", "call_id", "name", "arguments", "parsed_arguments", *_IDLE}, at)
    call = ToolCall(
        a_name(item.get("name"), f"{at}.name"),
        read_arguments(item.get("arguments"), f"{at}.arguments"),
        a_text(item.get("call_id"), f"{at}.call_id", most=200),
    )
    if messages and messages[-1].role is Role.assistant:
        # Text and calls of one turn are items beside each other here, and one message there.
        last = messages[-1]
        messages[-1] = replace(last, tool_calls=(*last.tool_calls, call))
    else:
        messages.append(Message(role=Role.assistant, content="", tool_calls=(call,)))


def _read_parts(value: Any, at: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(value, str):
        return a_text(value, at), ()
    texts: list[str] = []
    images: list[str] = []
    for number, one in enumerate(a_list(value, at, most=_MOST_PARTS)):
        here = f"{at}[{number}]"
        part = an_object(one, here)
        kind = part.get("type")
        if kind == "input_image":
            if part.get("file_id") is not None:
                param = f"{here}.file_id"
                raise Unsupported(f"{param} is not supported: no files are kept.", param=param)
            idle = {*IDLE_WITHIN["part"], *IDLE_WITHIN["image"]}
            only(part, {"type", "image_url", *idle}, here)
            images.append(read_image(part.get("image_url"), f"{here}.image_url"))
        elif kind in {"input_file", "input_audio"} if isinstance(kind, str) else False:
            param = f"{here}.type"
            raise Unsupported(f"{param} {kind!r} is not supported.", param=param)
        else:
            name = _TEXTS[one_of(kind, _TEXTS, f"{here}.type")]
            only(part, {"type", name, *IDLE_WITHIN["part"]}, here)
            texts.append(a_text(part.get(name), f"{here}.{name}"))
    return "\n".join(texts), tuple(images)
