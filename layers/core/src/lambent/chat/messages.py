"""Messages as JSON records, the way the stores keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lambent.errors import TooLarge
from lambent.models.values import Message, Role, ToolCall

# A function answers 6 MB at most, with what goes around a message.
ANSWER_BYTES: Final = 5_800_000


def answer_bytes(text: str) -> int:
    """What the text takes in a function's answer: that is a JSON document within another, in which
    a quotation mark takes four bytes and a control character seven."""
    if len(text) * 7 <= 4096:  # near enough
        return len(text) * 4
    return len(kept_json(kept_json(text)).encode())


def images_bytes(images: Sequence[str]) -> int:
    """The same of images: base64 has no letter that takes more than one byte."""
    return sum(len(one) + 60 for one in images)


def check_readable(messages: Sequence[Message]) -> None:
    """Raises `TooLarge` where a message could be kept, and then not be read: one message is not
    divided among answers."""
    for number, one in enumerate(messages, 1):
        if (size := answer_bytes(one.content) + images_bytes(one.images)) > ANSWER_BYTES:
            raise TooLarge(
                f"Message {number} takes {size} bytes in an answer, which has {ANSWER_BYTES} for "
                "one message of a conversation: divide it among several."
            )


def record_of(message: Message) -> dict[str, Any]:
    """Without what is empty."""
    calls = [[call.name, dict(call.arguments), call.id] for call in message.tool_calls]
    record = {
        "role": message.role.value,
        "content": message.content,
        "images": list(message.images),
        "thinking": message.thinking,
        "tool_calls": calls,
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {name: value for name, value in record.items() if value}


def message_of(record: Mapping[str, Any]) -> Message:
    """The message that a record was made of."""
    return Message(
        role=Role(record["role"]),
        content=record.get("content", ""),
        images=tuple(record.get("images", ())),
        thinking=record.get("thinking", ""),
        tool_calls=tuple(ToolCall(*one) for one in record.get("tool_calls", ())),
        tool_name=record.get("tool_name"),
        tool_call_id=record.get("tool_call_id"),
    )


def kept_json(value: object) -> str:
    """JSON as small as it came: six bytes for each letter beyond ASCII would make a request that
    may be sent into a document that MongoDB refuses, after its model was paid for."""
    # Half of a pair, which a model may say, is no UTF-8: it alone stays escaped.
    text = json.dumps(value, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()


def records_of(messages: Sequence[Message]) -> str:
    """All of them as one text; `messages_of` reads it."""
    return kept_json([record_of(one) for one in messages])


def messages_of(records: str) -> tuple[Message, ...]:
    """The messages that `records_of` wrote."""
    return tuple(message_of(one) for one in json.loads(records))
