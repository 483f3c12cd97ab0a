"""`Dialogue`: one turn's part in a kept conversation: reads it, claims it, adds the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from lambent.agents.tool_uses import ToolUse
from lambent.agents.turn_frames import usage_body
from lambent.agents.turn_input import Place
from lambent.chat import window
from lambent.chat.conversations import BUSY, Conversation, ConversationStore
from lambent.chat.entries import Entry
from lambent.chat.messages import check_readable
from lambent.clock import Clock
from lambent.errors import LambentError, ModelUnavailable, StoreUnavailable
from lambent.model_names import canonical
from lambent.models.manager import ModelManager
from lambent.models.values import Message, ModelRequest, Role, Usage

if TYPE_CHECKING:
    from lambent.chat.upkeep import Upkeep

_RENEW_S: Final = BUSY.total_seconds() / 3
_ASK_AGAIN_S: Final = 30.0


class Dialogue:
    """`begin`, then `keep` where the answer is whole, then `end` in any case."""

    def __init__(
        self,
        store: ConversationStore,
        id: str,
        *,
        turn: str,
        client: str,
        clock: Clock,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._store = store
        self._id = id
        self._turn = turn
        self._client = client
        self._clock = clock
        self._number = 1
        self._window_tokens = 0
        self._said: Sequence[Message] = ()
        self._upkeep = upkeep
        self._found: Conversation | None = None
        self._fitted = window.Fitted(())
        self._renewing: asyncio.Task[None] | None = None
        self._ratio: float | None = None

    async def begin(
        self, said: Sequence[Message], *, window_tokens: int, options: Mapping[str, Any]
    ) -> tuple[Message, ...]:
        """What the model is to be told. Raises `NotFound`, `TooLarge`, `Conflict` and
        `StoreUnavailable`."""
        check_readable(said)
        found = await self._store.begin_turn(self._id, client=self._client, turn=self._turn)
        self._renewing = asyncio.create_task(
            keep_claim(self._store, self._id, turn=self._turn, clock=self._clock)
        )
        standing, entries = await self._read(found, window_tokens)
        self._window_tokens = window_tokens
        self._said = said
        self._found = found
        self._fitted = window.fit(
            entries,
            said,
            window_tokens=window_tokens,
            answer_tokens=int(options.get("num_predict") or 0),
            tokens_a_byte=found.tokens_a_byte,
            summary=found.summary,
            standing=standing,
        )
        return self._fitted.messages

    async def _read(
        self, found: Conversation, window_tokens: int
    ) -> tuple[Sequence[Entry], Sequence[Entry]]:
        """What stands whatever came after it, and the last entries: as many as may fit."""
        store = self._store.recent(self._id, client=self._client)
        covered = found.summary.covers if found.summary is not None else 0

        async def last(before: int | None = None) -> list[Entry]:
            room = window.Room(window_tokens, found.tokens_a_byte)
            return await store.until(room, since=covered + 1, before=before)

        entries = await last()
        first = entries[0].number if entries else covered + 1
        standing = await store.standing(before=first, turn=self._turn) if first > 1 else []
        self._number = entries[-1].number + 1 if entries else covered + 1
        again = next((one for one in (*standing, *entries) if one.turn == self._turn), None)
        if again is not None:  # asked for again, it goes on from where it once began
            self._number = again.number
            entries = await last(again.number)
            first = entries[0].number if entries else again.number
            standing = [one for one in standing if one.number < first]
        return standing, entries

    @property
    def place(self) -> Place:
        """Where the exchange belongs, for a turn that is a run: that one adds it, too."""
        return Place(
            conversation=self._id,
            number=self._number,
            said=len(self._said),
            covers=self._fitted.covers,
            window_tokens=self._window_tokens,
        )

    async def keep(
        self,
        answer: str,
        *,
        thinking: str,
        usage: Usage,
        first: tuple[ModelRequest, int] | None,
        tools: Sequence[ToolUse] = (),
    ) -> None:
        """Add the exchange, once, and let the next turn begin. A run may have added it already.

        `first`: the turn's first call and its tokens; of all calls together nothing is learned.
        Raises `Conflict` where this turn had lost its claim.
        """
        message = Message(role=Role.assistant, content=answer, thinking=thinking)
        await self._store.add(
            self._id,
            self._number,
            (*self._said, message),
            client=self._client,
            turn=self._turn,
            usage=usage_body(usage),
            tools={len(self._said): tools} if tools else None,
        )
        if first is not None:
            self._ratio = window.measured(first[0].messages, first[1])
        await self.end()
        if self._upkeep is not None and self._found is not None:
            await self._upkeep.after_turn(self._found, covers=self._fitted.covers)

    async def end(self) -> None:
        """Let the next turn begin; never raises: a claim that stays lapses. Twice is once."""
        renewing, self._renewing = self._renewing, None
        if renewing is None:
            return
        renewing.cancel()
        with suppress(StoreUnavailable):
            await self._store.end_turn(self._id, turn=self._turn, tokens_a_byte=self._ratio)

    def leave(self) -> None:
        """Leave the claim to whoever goes on with the turn; it lapses where nobody does."""
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None


async def keep_claim(store: ConversationStore, id: str, *, turn: str, clock: Clock) -> None:
    """Renew a turn's claim until it is somebody else's; a store that is away is waited for."""
    held = True
    while held:
        await clock.sleep(_RENEW_S)
        with suppress(StoreUnavailable):
            held = await store.renew_turn(id, turn=turn)


class Windows:
    """How many tokens each model takes: what it was made for, within what it is loaded with."""

    def __init__(self, models: ModelManager, *, loaded_tokens: int, clock: Clock) -> None:
        self._models = models
        self._loaded_tokens = loaded_tokens
        self._clock = clock
        self._known: dict[str, int] = {}
        self._silent_until_s: dict[str | None, float] = {}

    async def tokens_of(
        self, model: str, options: Mapping[str, Any], *, host: str | None = None
    ) -> int:
        """The window of one turn at the host; a silent one is not asked again for a while."""
        asked = int(options.get("num_ctx") or self._loaded_tokens)
        now_s = self._clock.monotonic_s()
        name = canonical(model)
        if name not in self._known and self._silent_until_s.get(host, now_s) <= now_s:
            try:
                made_for = (await self._models.show(model, host=host)).context_tokens
                self._known[name] = made_for or 1 << 30
            except ModelUnavailable:
                self._silent_until_s[host] = self._clock.monotonic_s() + _ASK_AGAIN_S
            except LambentError:  # the turn itself will tell what is wrong, if anything is
                pass
        return min(asked, self._known.get(name, asked))
