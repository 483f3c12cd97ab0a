"""What a durable turn's run is started with, and what comes of that for a kept conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from lambent.agents.agent import AgentInfo
from lambent.agents.tool_uses import ToolUse
from lambent.models.values import Message, Role, ToolCall, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a kept conversation the turn's exchange belongs: as its entry of this number, or
    nowhere. `said`: how many of the turn's last messages are new, and go in with the answer.
    `covers`: up to which entry a summary would help; the model's window goes with it."""

    conversation: str
    number: int
    said: int
    covers: int
    window_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A turn that is whole, on its way into its conversation. `prompt_tokens` is what its first
    model call counted, which was told the turn's messages and nothing that came of them."""

    input: Mapping[str, Any]
    client: str
    place: Place
    answer: Message
    usage: Usage
    prompt_tokens: int
    tools: tuple[ToolUse, ...] = ()


class Exchanges(Protocol):
    """What durable turns do to conversations."""

    async def keep(self, exchange: Exchange) -> Any:
        """Add a whole turn, once for each turn, whoever tries it how often."""
        ...

    def hold(
        self, input: Mapping[str, Any], *, client: str, held: bool
    ) -> AbstractAsyncContextManager[None]:
        """Keep other turns out of the conversation meanwhile; does nothing for a turn of none.
        `held`: whoever began the turn here holds it just now."""
        ...


def turn_input(
    agent: AgentInfo,
    *,
    turn: str,
    messages: Sequence[Message],
    model: str,
    options: Mapping[str, Any],
    think: bool | str | None,
    scopes: frozenset[str],
    key: str | None,
    lease_s: float | None = None,
    place: Place | None = None,
) -> dict[str, Any]:
    """What a run is started with. The scopes are those of the key that asked, on which its use is
    booked: only the platform starts such a run, so nobody can write other ones in. `lease_s`: its
    readers hold a lease, and the turn is stopped once that lapses. `place`: the run adds what was
    said to a conversation, of which the caller knows that it is the client's."""
    input = {
        "agent": agent.name,
        "turn": turn,
        "messages": [message_record(one) for one in messages],
        "model": model,
        "options": dict(options),
        "think": think,
        "scopes": sorted(scopes),
        "key": key,
        "lease_s": lease_s,
    }
    # Nothing where there is none: so the same turn, asked for again, has the input that it had.
    return input if place is None else {**input, "place": asdict(place)}


def place_in(input: Mapping[str, Any]) -> Place | None:
    """Of a run's input; None where it is no turn of a conversation, or is from before this was
    told."""
    found = input.get("place")
    if found is None:
        return None
    # A newer version may tell more.
    return Place(**{one.name: found[one.name] for one in fields(Place)})


def said_in(input: Mapping[str, Any], place: Place) -> tuple[Message, ...]:
    """What the client said in this turn."""
    messages = input["messages"]
    return tuple(message_of(one) for one in messages[len(messages) - place.said :])


def message_record(message: Message) -> dict[str, Any]:
    """A message as `step.generate` takes it."""
    record: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.images:
        record["images"] = list(message.images)
    if message.tool_calls:
        record["tool_calls"] = [
            {"name": one.name, "arguments": dict(one.arguments), "id": one.id}
            for one in message.tool_calls
        ]
    if message.tool_name:
        record["tool_name"] = message.tool_name
    if message.tool_call_id:
        record["tool_call_id"] = message.tool_call_id
    if message.recap:
        record["recap"] = True
    return record


def message_of(record: Mapping[str, Any]) -> Message:
    """The message that a record stands for."""
    return Message(
        role=Role(record["role"]),
        content=record["content"],
        images=tuple(record.get("images", ())),
        tool_calls=tuple(ToolCall(**one) for one in record.get("tool_calls", ())),
        tool_name=record.get("tool_name"),
        tool_call_id=record.get("tool_call_id"),
        recap=record.get("recap", False),
    )
