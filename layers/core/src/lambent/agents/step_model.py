"""`StepModel`: the model as a workflow's step may use it, through breaker and slot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Final

from lambent.admission.decisions import AdmissionRequest, Candidates, Grant, Outcome
from lambent.admission.gate import Gate
from lambent.admission.usage import Payer
from lambent.agents.booking import NOWHERE_ELSE, Booking
from lambent.agents.foreseen import Foreseen
from lambent.agents.model_access import ModelAccess
from lambent.agents.model_hosts import ModelHosts
from lambent.engine.config import Generated, Listener
from lambent.errors import BudgetExceeded, StoreUnavailable
from lambent.first_aid import explain
from lambent.models.manager import ModelManager
from lambent.models.values import Embeddings, Message, ModelRequest, Role, ToolCall, Usage
from lambent.telemetry import logger

_BUDGET_LOOK_S: Final = 300.0
# A repetition shorter than this may as well be what the model means to say next.
_SURE_CHARACTERS: Final = 16
# Turns of the loop from the answer to its checkpoint's being sent, for which the next step waits.
_TURNS_AHEAD: Final = 5


class StepModel:
    """The engine's `ModelPort`; a request's `agent` and `key` are on whom its use is booked.

    A generation's value is a dict: `text`, `thinking`, `tool_calls` (each `name`, `arguments`,
    `id`), `finish_reason`, `model`, `usage`.
    """

    def __init__(self, models: ModelManager, gate: Gate, *, default_model: str) -> None:
        self._models = models
        self._gate = gate
        self._default_model = default_model
        self._hosts = ModelHosts(models)
        self._foreseen = Foreseen(
            self._granted, lambda grant: self._gate.finish(grant, Outcome.ABANDONED)
        )

    def expect(self, model: str | None, *, client: str) -> None:
        """A generation is about to be asked for: ask for its slot already."""
        self._foreseen.expect(client, model or self._default_model)

    async def generate(
        self, request: Mapping[str, Any], *, client: str, listener: Listener | None = None
    ) -> Generated:
        """One whole generation. Raises `BreakerOpen`, `NoSlot` and what the model raises."""
        before = await listener.begin() if listener is not None else ""
        asked = _request(request, self._default_model, before)
        grant, among = await self._foreseen.take(client, asked.model)
        payer = Payer(
            client=client, key_id=request.get("key"), agent=str(request.get("agent") or "")
        )
        access = ModelAccess(self._models)
        if grant.host is None:  # unguarded: then only the preferred host
            access.host, among = among.hosts[0], NOWHERE_ELSE
        booking = Booking(self._gate, grant, payer=payer, access=access, among=among)
        try:
            async with booking.keeping():
                value, usage = await _collect(asked, access, listener, before)
        except BaseException:
            await booking.finish()
            raise
        # Beside what is written of the answer; the step is done once both are.
        booked = asyncio.create_task(_book(booking))
        try:
            if listener is not None:
                await listener.end()
        except BaseException:
            await asyncio.wait({booked})
            raise
        return Generated(value, usage.total_tokens, booked)

    async def _granted(self, client: str, model: str) -> tuple[Grant, Candidates]:
        among = await self._hosts.for_model(model)
        return await self._admitted(client, among), among

    async def _admitted(self, client: str, among: Candidates) -> Grant:
        try:
            return await self._gate.granted(AdmissionRequest.for_client(client, among))
        except StoreUnavailable as error:
            # Without Postgres a step goes on unguarded: nothing would ever finish else.
            logger().warning("A model is called without breaker and slot: %s", explain(error))
            return Grant(host=None, token="")
        except BudgetExceeded as error:
            # Looked at again well before the period ends: the budget may have been raised.
            error.retry_after_s = min(error.retry_after_s, _BUDGET_LOOK_S)
            raise

    async def embed(
        self, model: str, text: str, *, client: str, key: str | None, agent: str
    ) -> Embeddings:
        """One vector, through the same gate."""
        grant, among = await self._granted(client, model)
        access = ModelAccess(self._models)
        payer = Payer(client=client, key_id=key, agent=agent)
        if grant.host is None:
            access.host, among = among.hosts[0], NOWHERE_ELSE
        booking = Booking(self._gate, grant, payer=payer, access=access, among=among)
        try:
            async with booking.keeping():
                return await access.embed(model, [text])
        finally:
            await booking.finish()


async def _book(booking: Booking) -> None:
    for _ in range(_TURNS_AHEAD):
        await asyncio.sleep(0)
    try:
        await booking.finish()
    except Exception:  # the answer is there; what was granted lapses with its lease
        logger().exception("A model call could not be booked")


async def _collect(
    request: ModelRequest, access: ModelAccess, listener: Listener | None, before: str
) -> tuple[dict[str, Any], Usage]:
    text: list[str] = []
    thinking: list[str] = []
    calls: list[ToolCall] = []
    finish_reason, usage = "stop", Usage()
    again = _Again(before)
    async with aclosing(access.stream(request)) as pieces:
        async for piece in pieces:
            more = again.new(piece.content, last=piece.end is not None)
            if listener is not None and (more or piece.thinking):
                listener.tell(more, piece.thinking)
            text.append(more)
            thinking.append(piece.thinking)
            calls.extend(piece.tool_calls)
            if piece.end is not None:
                finish_reason, usage = piece.end.finish_reason, piece.end.usage
    value = {
        "text": before + "".join(text),
        "thinking": "".join(thinking),
        "tool_calls": [
            {"name": one.name, "arguments": dict(one.arguments), "id": one.id} for one in calls
        ],
        "finish_reason": finish_reason,
        "model": request.model,
        "usage": asdict(usage),
    }
    return value, usage


class _Again:
    """Drops what a model repeats that was asked to go on from `before`.

    Ollama goes on from a last message of the assistant; a server that does not begins again, and
    then its text begins as `before` does. Text is held back only while it could be that.
    """

    def __init__(self, before: str) -> None:
        self._before = before if len(before) >= _SURE_CHARACTERS else ""
        self._held = ""

    def new(self, text: str, *, last: bool) -> str:
        """What of the text, and of what was held back, is new."""
        if not self._before:
            return text
        self._held += text
        if len(self._held) < len(self._before):
            if self._before.startswith(self._held) and not last:
                return ""
            told = self._held
        else:
            told = self._held.removeprefix(self._before)
        self._before = self._held = ""
        return told


def _request(asked: Mapping[str, Any], default_model: str, before: str) -> ModelRequest:
    messages = [_message(one) for one in asked["messages"]]
    if before:
        messages.append(Message(role=Role.assistant, content=before))
    return ModelRequest(
        model=asked.get("model") or default_model,
        messages=tuple(messages),
        tools=tuple(asked.get("tools") or ()),
        options=dict(asked.get("options") or {}),
        format=asked.get("format"),
        # It has thought already where it is to go on with its answer.
        think=False if before and asked.get("think") else asked.get("think"),
    )


def _message(said: Mapping[str, Any]) -> Message:
    return Message(
        role=Role(said["role"]),
        content=said.get("content", ""),
        images=tuple(said.get("images", ())),
        tool_calls=tuple(
            ToolCall(one["name"], one["arguments"], one.get("id"))
            for one in said.get("tool_calls", ())
        ),
        tool_name=said.get("tool_name"),
        tool_call_id=said.get("tool_call_id"),
    )
