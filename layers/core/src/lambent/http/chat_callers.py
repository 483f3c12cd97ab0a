"""Who calls a chat route: the key, the checked body, and what is told about the caller's limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from starlette.requests import Request

from lambent.admission import limits
from lambent.admission.decisions import LimitState
from lambent.admission.keys import credential_of
from lambent.admission.sessions import is_page_token
from lambent.chat.live_turn import LiveTurn
from lambent.chat.service import ChatService
from lambent.chat.values import ChatRequest, Known, Refusal, StreamWish
from lambent.errors import RequestError, TooLarge
from lambent.http.bodies import read_json
from lambent.http.problems import Rejected
from lambent.http.stream_wishes import wish_of

T = TypeVar("T")
# In a request's scope: who it is, where that was found out before the route.
KNOWN: Final = "lambent.known"
# The id that the turn is to have, if it is durable, where the request may have been made before.
TURN: Final = "lambent.turn"
LimitHeaders = Callable[[LimitState | None], dict[str, str]]


class Caller:
    """One request's caller; every refusal is raised as `Rejected`, with the limit's headers."""

    def __init__(
        self,
        service: ChatService,
        request: Request,
        *,
        limit_headers: LimitHeaders = limits.headers,
        credential: str | None = None,
    ) -> None:
        """`credential`: instead of that of the headers."""
        self._service = service
        self._request = request
        self._limit_headers = limit_headers
        sent = request.headers
        found = credential_of(sent.get("authorization"), sent.get("x-api-key"))
        self.credential = found if credential is None else credential
        # Somebody in front of the route has asked already: a request counts once.
        self.counted: Known | None = request.scope.get(KNOWN)

    async def known(self, *, limited: bool = True, leaving: bool = False) -> Known:
        """Who it is, by key and, where it counts, limit alone."""
        if self.counted is not None:
            return self.counted
        return self.allowed(
            await self._service.check(self.credential, limited=limited, leaving=leaving)
        )

    async def check(self) -> Mapping[str, str]:
        """Key and limit alone; the headers that tell the limit."""
        return self._limit_headers((await self.known()).limit)

    async def asked(self, read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON body.

        A body that is not valid still has to bring a key and counts as one request.
        """
        try:
            return read(await read_json(self._request))
        except TooLarge:
            raise
        except RequestError as error:
            raise Rejected(error, await self.check()) from None

    async def wish(self) -> StreamWish:
        """How the stream that answers shall live; a wrong wish counts as one request."""
        try:
            return wish_of(self._request.headers)
        except RequestError as error:
            raise Rejected(error, await self.check()) from None

    async def start(self, asked: ChatRequest, *, wish: StreamWish | None = None) -> LiveTurn:
        """The turn, running; `wish` where a stream tells it."""
        turn = self._request.scope.get(TURN)
        if wish is not None:
            asked = replace(asked, lease_s=wish.lease_s)
        return self.allowed(
            await self._service.start(
                asked, credential=self.credential, counted=self.counted, durable_id=turn
            )
        )

    def headers(self, limit: LimitState | None) -> dict[str, str]:
        """What tells this caller its limit."""
        if limit is None and self.counted is not None:
            limit = self.counted.limit
        return self._limit_headers(limit)

    @property
    def longest_s(self) -> float | None:
        """What a stream that goes on without this request may last; None: to its end.

        A tab that somebody forgot is paid for as long as it is answered: a page's stream ends in
        time, and the page comes back for more where somebody looks at it.
        """
        return self._service.settings.live_stream_s if is_page_token(self.credential) else None

    def allowed(self, answer: T | Refusal) -> T:
        """The answer, if it is no refusal."""
        if isinstance(answer, Refusal):
            raise Rejected(answer.error, self.headers(answer.limit))
        return answer
