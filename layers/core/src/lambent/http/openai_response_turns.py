"""One request to /v1/responses as a turn: recalls what it goes on from, and keeps what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lambent.chat.live_turn import LiveTurn
from lambent.chat.responses import Kept, Recalled, ResponseStore
from lambent.chat.values import ChatRequest
from lambent.errors import NotFound, StoreUnavailable
from lambent.http.openai_answers import Naming
from lambent.http.openai_errors import BadParam
from lambent.http.openai_response_answers import Keep, ResponseBodyOf, ResponseEncoder, Writer
from lambent.http.openai_response_items import named
from lambent.http.openai_response_requests import ResponseAsked, parse_response
from lambent.models.values import Message
from lambent.telemetry import log_fields, logger

__all__ = ["ResponseTurn", "parse_response"]


class PreviousNotFound(BadParam):
    """`previous_response_id` names nothing that this client can go on from."""

    code = "previous_response_not_found"


class ResponseTurn:
    """Between the request, the store and the answer."""

    def __init__(self, asked: ResponseAsked, store: ResponseStore) -> None:
        self._asked = asked
        self._store = store
        self._recalled = Recalled()
        self._said = asked.said
        self.stream = asked.stream
        self.request: ChatRequest = replace(asked.request, recall=self._recall)

    def encoder_of(self, live: LiveTurn, *, created_s: int) -> ResponseEncoder:
        """What streams the answer."""
        return ResponseEncoder(self._writer(live, created_s), self._keeper(live))

    def body_of(self, live: LiveTurn, *, created_s: int) -> ResponseBodyOf:
        """What makes the answer one document."""
        return ResponseBodyOf(self._writer(live, created_s), self._keeper(live))

    def _writer(self, live: LiveTurn, created_s: int) -> Writer:
        naming = Naming(_id_of(live), self._asked.model, created_s)
        return Writer(naming, self._asked.plan, echo=self._asked.echo)

    async def _recall(self, client: str) -> tuple[Message, ...]:
        """Instructions, which hold for this turn only, what was said before, and what is now."""
        if self._asked.previous is not None:
            try:
                self._recalled = await self._store.recall(self._asked.previous, client=client)
            except NotFound as error:
                raise PreviousNotFound(error.detail, param="previous_response_id") from None
            self._said = named(self._asked.said, self._recalled.messages)
        whole = (*self._asked.instructions, *self._recalled.messages, *self._said)
        return self._asked.plan.told(whole)

    def _keeper(self, live: LiveTurn) -> Keep:
        async def keep(body: Mapping[str, Any], answer: Message) -> bool:
            if not self._asked.store:
                return False
            kept = Kept(
                id=_id_of(live),
                client=live.client,
                chain=self._recalled.chain,
                messages=(*self._said, answer),
                body=body,
            )
            try:
                await self._store.keep(kept)
            except StoreUnavailable:
                # The answer is there and paid for: it is told, and says that it was not kept.
                why = log_fields(turn=live.id)
                logger().exception("A response could not be kept", **why)
                return False
            return True

        return keep


def _id_of(live: LiveTurn) -> str:
    return f"resp_{live.id}"
