"""Honours `Idempotency-Key`: one request makes the answer, all others with the key get it too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambent.admission import limits
from lambent.chat.idempotency import KeptAnswer, KeyRecord, KeyStatus, quietly
from lambent.chat.live_turn import outlast
from lambent.chat.service import ChatService
from lambent.chat.stream_turn import StreamTurn
from lambent.chat.values import Known
from lambent.errors import (
    LambentError,
    RequestError,
    TurnParked,
    Unavailable,
    Unprocessable,
    revived,
)
from lambent.http.bodies import parse_json, read_body
from lambent.http.chat_callers import KNOWN, TURN, Caller, LimitHeaders
from lambent.http.kept_stream import FOR_GOOD, StreamAnswer
from lambent.http.key_header import KEY_HEADER, KeyReused, key_of
from lambent.http.problems import Rejected, as_lambent, encode_headers
from lambent.http.stream_following import Words, follow_stream, last_event_of
from lambent.streams.values import StreamStatus

Endpoint = Callable[[Request], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Began:
    """A stream that a request with this key has begun; `answered`: and told to its end."""

    turn: str
    client: str
    answered: bool


WordsOf = Callable[[Request, Began], Awaitable[Words]]

_CLOSING_S: Final = 2.0
_REPLAYED: Final = {"idempotency-replayed": "true"}


def keyed(
    endpoint: Endpoint,
    service: ChatService,
    *,
    limit_headers: LimitHeaders = limits.headers,
    words_of: WordsOf | None = None,
) -> Endpoint:
    """The endpoint, which may then be asked with a key.

    `words_of`: what it tells a stream in, where those are not the platform's own words.
    """
    return Keyed(endpoint, service, limit_headers=limit_headers, words_of=words_of).answer


class Keyed:
    """Stands in front of an endpoint that may be asked with a key.

    A request counts once against the limit, whether it makes the answer or gets it. A body that
    is no JSON claims no key: its error is the same each time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        service: ChatService,
        *,
        limit_headers: LimitHeaders,
        words_of: WordsOf | None,
    ) -> None:
        self._endpoint = endpoint
        self._service = service
        self._limit_headers = limit_headers
        self._words_of = words_of

    async def answer(self, request: Request) -> Any:
        """The endpoint; what it returns sends the answer."""
        if KEY_HEADER not in request.headers:
            return await self._endpoint(request)
        caller = Caller(self._service, request, limit_headers=self._limit_headers)
        known = await caller.known()
        headers = caller.headers(known.limit)
        try:
            key = key_of(request.headers)
            assert key is not None
            after = last_event_of(request)
            body = await read_body(request)
        except LambentError as error:
            raise Rejected(error, headers) from None
        request.scope[KNOWN] = known
        again = Request(request.scope, _replaying(body, request.receive))
        try:
            asked = canonical(request.url.path, body)
        except RequestError:
            return await self._endpoint(again)
        return _KeyedAnswer(
            self._service,
            self._endpoint,
            again,
            known,
            key=key,
            asked=asked,
            headers=headers,
            words_of=self._words_of,
            after=after,
        )


class _KeyedAnswer:
    def __init__(
        self,
        service: ChatService,
        endpoint: Endpoint,
        request: Request,
        known: Known,
        *,
        key: str,
        asked: bytes,
        headers: Mapping[str, str],
        words_of: WordsOf | None,
        after: int,
    ) -> None:
        self._service = service
        self._keys = service.keys
        self._endpoint = endpoint
        self._request = request
        self._known = known
        self._key = key
        self._asked = asked
        self._headers = headers
        self._words_of = words_of
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            record, owned = await self._settled()
            if owned:
                await self._make(record, scope, receive, send)
            else:
                await self._tell(record, scope, receive, send)
        except LambentError as error:
            raise Rejected(error, self._headers) from None

    async def _settled(self) -> tuple[KeyRecord, bool]:
        try:
            return await self._keys.settled(self._key, self._asked, client=self._known.client)
        except Unprocessable as error:
            raise KeyReused(error.detail) from None

    async def _tell(self, record: KeyRecord, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**self._headers, **_REPLAYED}
        if record.answer is not None:
            raw = encode_headers({**headers, **record.answer.headers})
            start = {"type": "http.response.start", "status": record.answer.status, "headers": raw}
            await send(start)
            await send({"type": "http.response.body", "body": record.answer.body})
        elif record.stream is not None:
            app = await self._followed(record, record.stream, headers)
            await app(scope, receive, send)
        elif (error := record.error) is not None:
            again = revived(error.code, error.detail, error.fields, error.retry_after_s)
            raise Rejected(again, headers)
        else:
            raise Unavailable("The first request with this Idempotency-Key failed.")

    async def _followed(
        self, record: KeyRecord, stream: str, headers: Mapping[str, str]
    ) -> ASGIApp:
        client, words = self._known.client, None
        if self._words_of is not None:
            answered = record.status is KeyStatus.ANSWERED
            words = partial(self._words_of, self._request, Began(stream, client, answered))
        return await follow_stream(
            self._service,
            self._request,
            stream,
            client=client,
            headers=headers,
            longest_s=Caller(self._service, self._request).longest_s,
            words=words,
        )

    async def _make(self, record: KeyRecord, scope: Scope, receive: Receive, send: Send) -> None:
        # In a task of its own: whoever comes back for the answer shall find it, so it is made
        # whether or not this connection lasts.
        self._request.scope[TURN] = record.turn
        keeping = self._keys.keep(record)
        for_good = False

        async def noting() -> Message:
            nonlocal for_good
            message = await receive()
            for_good = for_good or message.get("reason") in FOR_GOOD
            return message

        making = self._service.hold(self._answer(record, keeping, scope, noting, send))
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            if for_good:  # the process is frozen afterwards: how it ended has to be noted first
                await outlast(making, _CLOSING_S)
            raise

    async def _answer(
        self,
        record: KeyRecord,
        keeping: asyncio.Task[None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        streams = False
        try:
            seen = await self._seen(record)
            app = await self._endpoint(self._request)
            if isinstance(app, StreamAnswer):
                streams, app.after = True, seen
                app.turn.at_end = self._ending(record, keeping)
                await app(scope, receive, self._noting_start(record, app.turn, send))
            else:
                await self._answer_whole(app, record, scope, receive, send)
        except Exception as error:
            if not streams:
                failure, _ = as_lambent(error)
                goes_on = isinstance(failure, Unavailable | TurnParked)
                failed = self._keys.failed(record, failure, goes_on=goes_on)
                await quietly(failed, key=self._key)
            raise
        finally:
            if not streams:
                keeping.cancel()

    async def _seen(self, record: KeyRecord) -> int:
        """The last event that the caller has seen of the turn, where it was begun before and is
        gone on with; of a stream that is made anew it has seen nothing."""
        if not self._after or await self._service.streams.look(record.turn) is None:
            return 0
        return self._after

    async def _answer_whole(
        self, app: ASGIApp, record: KeyRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        told: list[Message] = []

        async def collecting(message: Message) -> None:
            told.append(message)

        await app(scope, _for_good_only(receive), collecting)
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in told[0]["headers"]
        }
        answer = KeptAnswer(
            told[0]["status"],
            {"content-type": headers["content-type"]},
            b"".join(one.get("body", b"") for one in told[1:]),
        )
        # Before it is told: a crash in between must not let a retry be answered anew.
        await quietly(self._keys.answered(record, answer), key=self._key)
        for message in told:
            await send(message)

    def _noting_start(self, record: KeyRecord, turn: StreamTurn, send: Send) -> Send:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                await quietly(self._keys.streams(record, turn.live.id), key=self._key)
            await send(message)

        return noting

    def _ending(
        self, record: KeyRecord, keeping: asyncio.Task[None]
    ) -> Callable[[StreamTurn], Awaitable[None]]:
        async def end(turn: StreamTurn) -> None:
            keeping.cancel()
            if turn.log.status is StreamStatus.DONE:
                await quietly(self._keys.answered(record), key=self._key)
            else:
                failed = self._keys.failed(record, turn.refused, goes_on=turn.goes_on)
                await quietly(failed, key=self._key)

        return end


def canonical(path: str, body: bytes) -> bytes:
    """What a key stands for: a retry may order its fields anew."""
    return json.dumps([path, parse_json(body)], sort_keys=True).encode()


def _replaying(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replaying() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


def _for_good_only(receive: Receive) -> Receive:
    """Tells of no client that left, only of an environment that goes away."""

    async def patient() -> Message:
        while (message := await receive())["type"] == "http.disconnect":
            if message.get("reason") in FOR_GOOD:
                return message
            await asyncio.Event().wait()
        return message

    return patient
