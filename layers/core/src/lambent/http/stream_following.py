"""Opens a client's stream for one more reader, in this process or through MongoDB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.types import ASGIApp

from lambent.chat.service import ChatService
from lambent.errors import NotFound, RequestError
from lambent.http.problems import request_id_of
from lambent.ids import ulid_time
from lambent.streams.values import Dialect, StreamStatus

if TYPE_CHECKING:
    from lambent.chat.stream_turn import FrameEncoder
    from lambent.streams.reader import Followed
    from lambent.streams.values import Stream

# Digits of an event's number: far more than any stream has, and within 64 bits.
_LONGEST_ID: Final = 15
# A stream gets its document with its first writing: whoever asks sooner waits a little.
_FRESH: Final = timedelta(seconds=1.5)
_LOOK_AGAIN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Words:
    """What an answer is told in."""

    encoder: FrameEncoder
    dialect: Dialect


async def find_stream(service: ChatService, id: str, *, client: str) -> Stream:
    """Raises `NotFound`, also for another client's stream, and `StoreUnavailable`."""
    store, clock = service.streams, service.clock
    # From now at the most: an id may name any time, and a clock elsewhere may be ahead.
    fresh_until = min(ulid_time(id), clock.now()) + _FRESH
    while (found := await store.look(id)) is None and clock.now() < fresh_until:
        await clock.sleep(_LOOK_AGAIN_S)
    if found is None or found.client != client:
        raise NotFound(f"There is no stream {id[:100]!r}.")
    return found


async def follow_stream(
    service: ChatService,
    request: Request,
    id: str,
    *,
    client: str,
    headers: Mapping[str, str],
    longest_s: float | None = None,
    words: Callable[[], Awaitable[Words]] | None = None,
) -> ASGIApp:
    """What answers with the stream, from behind the request's `Last-Event-ID` on, for at most
    `longest_s`.

    `words`: those in which the request was answered that began the stream, where this is the same
    one; a turn that its run keeps in other words is then told, and numbered, in these.

    Raises what `find_stream` and `words` raise, and `RequestError`.
    """
    from lambent.http.kept_stream import StreamAnswer, StreamElsewhere, stream_headers
    from lambent.streams.reader import StreamReader

    after = last_event_of(request)
    keep_alive_s, clock = service.settings.keep_alive_s, service.clock
    turn = service.stream_here(id, client=client)
    if turn is not None and (words is not None or not turn.reworded):
        return StreamAnswer(
            turn,
            headers=headers,
            keep_alive_s=keep_alive_s,
            clock=clock,
            after=after,
            first=False,
            longest_s=longest_s,
        )
    stream = await find_stream(service, id, client=client)
    own = await words() if words is not None and stream.made_by_run else None
    if stream.status is StreamStatus.LIVE:
        await service.streams.attach(stream)
    seen = after if own is None else 0
    if stream.made_by_run and stream.status is StreamStatus.LIVE:
        events: Followed = service.durable.follow_stream(stream, after=seen)
    else:
        events = StreamReader(service.streams, stream, after=seen, clock=clock).events()
    if own is not None:
        from lambent.chat.retelling import retold

        events = retold(events, own.encoder, after=after)
    return StreamElsewhere(
        events,
        dialect=stream.dialect if own is None else own.dialect,
        headers={**headers, **stream_headers(id, reworded=own is not None)},
        keep_alive_s=keep_alive_s,
        clock=clock,
        request_id=request_id_of(request.scope),
        longest_s=longest_s,
    )


def last_event_of(request: Request) -> int:
    """The last event that the reader has seen; raises `RequestError`."""
    text = request.headers.get("last-event-id", "").strip() or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID):
        raise RequestError("Last-Event-ID is the number of an event of this stream.")
    return int(text)
