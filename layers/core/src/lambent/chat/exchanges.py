"""`ExchangeKeeper`: adds a durable turn to its conversation, by the run itself.

The chat function that follows a turn adds it too (`Dialogue.keep`), but may have gone long before
the turn ends. Both add the same entry, and one insert decides: the first of them, or of two slices
of the run, and every later one finds it there. Nor is the claim on the conversation the chat's
alone: each slice of the run renews it, so that no other turn takes the entry's place while this
one is worked on. Where it waits for a person, the claim lapses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from lambent.agents.turn_frames import usage_body
from lambent.agents.turn_input import Exchange, Place, message_of, place_in, said_in
from lambent.choices import Overflow, Titles
from lambent.clock import Clock
from lambent.errors import Cancelled, Conflict, NotFound, StoreUnavailable
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from lambent.chat.conversations import ConversationStore
    from lambent.engine.engine import WorkflowEngine
    from lambent.settings import Settings


class ExchangeKeeper:
    """One for each environment; its parts are called for at their first use."""

    def __init__(
        self,
        conversations: Callable[[], ConversationStore],
        *,
        engine: Callable[[], WorkflowEngine],
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._conversations = conversations
        self._engine = engine
        self._settings = settings
        self._clock = clock

    @asynccontextmanager
    async def hold(
        self, input: Mapping[str, Any], *, client: str, held: bool
    ) -> AsyncGenerator[None, None]:
        """Keep other turns out of the conversation; see `Exchanges`."""
        place, turn = place_in(input), input["turn"]
        if place is None or not (held or await self._claim(place, turn, client)):
            yield
            return
        from lambent.chat.dialogue import keep_claim

        store = self._conversations()
        renewing = asyncio.create_task(
            keep_claim(store, place.conversation, turn=turn, clock=self._clock)
        )
        try:
            yield
        except (Exception, Cancelled):
            await self._let_go(place, turn)
            raise
        else:
            await self._let_go(place, turn)
        finally:  # also where it goes on later: then the claim lapses
            renewing.cancel()

    async def _claim(self, place: Place, turn: str, client: str) -> bool:
        """Take it over from whoever had the turn, or anew; not where there is nothing to add."""
        store, id, number = self._conversations(), place.conversation, place.number
        try:
            if await store.entries(id, client=client, since=number, until=number + 1):
                return False
            if not await store.renew_turn(id, turn=turn):
                await store.begin_turn(id, client=client, turn=turn)
        except (Conflict, NotFound, StoreUnavailable):  # the entry's number decides
            return False
        return True

    async def _let_go(self, place: Place, turn: str) -> None:
        with suppress(StoreUnavailable):
            await self._conversations().end_turn(place.conversation, turn=turn, tokens_a_byte=None)

    async def keep(self, exchange: Exchange) -> dict[str, Any]:
        """Add it, let the next turn begin, and start what is left to do; any number of times.

        Nothing is added where the conversation is gone, or has gone on without this turn: the
        answer tells why. Raises `StoreUnavailable`.
        """
        from lambent.chat import window

        store, input, place = self._conversations(), exchange.input, exchange.place
        said = said_in(input, place)
        why = None
        try:
            await store.add(
                place.conversation,
                place.number,
                (*said, exchange.answer),
                client=exchange.client,
                turn=input["turn"],
                usage=usage_body(exchange.usage),
                tools={len(said): exchange.tools} if exchange.tools else None,
            )
        except (Conflict, NotFound) as error:
            why = error.detail
            fields = log_fields(turn=input["turn"], conversation=place.conversation)
            logger().warning("A turn is not added to its conversation: %s", why, **fields)
        # Only now: the next turn must find this one there.
        ratio = window.measured(
            [message_of(one) for one in input["messages"]], exchange.prompt_tokens
        )
        await store.end_turn(place.conversation, turn=input["turn"], tokens_a_byte=ratio)
        if why is None and has_upkeep(self._settings):
            await self._start_upkeep(store, exchange)
        return {"added": why is None, "why": why}

    async def _start_upkeep(self, store: ConversationStore, exchange: Exchange) -> None:
        from lambent.chat.upkeep import Upkeep

        input, place = exchange.input, exchange.place
        upkeep = Upkeep(
            engine=self._engine,
            settings=self._settings,
            client=exchange.client,
            key=input["key"],
            model=input["model"],
            options=input["options"],
            window_tokens=place.window_tokens,
        )
        with suppress(NotFound):  # deleted meanwhile
            found = await store.get(place.conversation, client=exchange.client)
            await upkeep.after_turn(found, covers=place.covers)


def has_upkeep(settings: Settings) -> bool:
    """Whether turns may leave summaries or titles to be made."""
    drops = settings.conversation_overflow == Overflow.DROP
    return not drops or settings.conversation_titles != Titles.WORDS
