"""One request to /v1/responses as a turn: recalls what it goes on from, and keeps what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from lambent.chat.responses import Kept, Recalled, ResponseStore
from lambent.chat.values import ChatRequest
from lambent.errors import NotFound, RequestError, StoreUnavailable
from lambent.http.openai_answers import Naming
from lambent.http.openai_errors import BadParam
from lambent.http.openai_response_answers import Keep, ResponseBodyOf, ResponseEncoder, Writer
from lambent.http.openai_response_items import named
from lambent.http.openai_response_requests import ResponseAsked, parse_response
from lambent.models.values import Message
from lambent.telemetry import log_fields, logger

__all__ = ["ResponseTurn", "parse_response"]
_PREFIX: Final = "resp_"


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

    def encoder_of(self, turn: str, *, client: str) -> ResponseEncoder:
        """What streams the answer of the turn with this id."""
        return ResponseEncoder(self._writer(turn), self._keeper(turn, client))

    def body_of(self, turn: str, *, client: str) -> ResponseBodyOf:
        """What makes the answer one document."""
        return ResponseBodyOf(self._writer(turn), self._keeper(turn, client))

    def encoder_again(self, turn: str, *, client: str, answered: bool) -> ResponseEncoder:
        """What streams the answer of a turn that another request began.

        Not `answered`: whoever was to keep it may die before. Else it is kept, unless its client
        has deleted it since: then it must not come back.
        """
        keep = self._found if answered else self._keep_again
        return ResponseEncoder(self._writer(turn), partial(keep, turn, client))

    def _writer(self, turn: str) -> Writer:
        naming = Naming.of(_PREFIX, turn, self._asked.model)
        return Writer(naming, self._asked.plan, echo=self._asked.echo)

    async def _recall(self, client: str) -> tuple[Message, ...]:
        """Instructions, which hold for this turn only, what was said before, and what is now."""
        if self._asked.previous is not None:
            try:
                self._recalled = await self._store.recall(self._asked.previous, client=client)
            except NotFound as error:
                raise PreviousNotFound(error.detail, param="previous_response_id") from None
            except RequestError as error:
                raise BadParam(error.detail, param="previous_response_id") from None
            self._said = named(self._asked.said, self._recalled.messages)
        whole = (*self._asked.instructions, *self._recalled.messages, *self._said)
        return self._asked.plan.told(whole)

    def _keeper(self, turn: str, client: str) -> Keep:
        return partial(self._keep, turn, client)

    async def _keep(self, turn: str, client: str, body: Mapping[str, Any], answer: Message) -> bool:
        if not self._asked.store:
            return False
        kept = Kept(
            id=body["id"],
            client=client,
            chain=self._recalled.chain,
            messages=(*self._said, answer),
            body=body,
        )
        try:
            await self._store.keep(kept)
        except StoreUnavailable:
            # The answer is there and paid for: it is told, and says that it was not kept.
            logger().exception("A response could not be kept", **log_fields(turn=turn))
            return False
        return True

    async def _keep_again(
        self, turn: str, client: str, body: Mapping[str, Any], answer: Message
    ) -> bool:
        try:
            await self._recall(client)
        except (PreviousNotFound, StoreUnavailable):
            return False
        return await self._keep(turn, client, body, answer)

    async def _found(
        self, turn: str, client: str, body: Mapping[str, Any], answer: Message
    ) -> bool:
        try:
            await self._store.get(body["id"], client=client)
        except (NotFound, StoreUnavailable):
            return False
        return True
