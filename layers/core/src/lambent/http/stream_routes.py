"""`/chat/streams/{id}`: resumes, stops, and keeps alive a stream, whichever process makes it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.routing import Route

from lambent.chat.service import ChatService
from lambent.chat.values import Known
from lambent.errors import LambentError, NotFound, RequestError
from lambent.http.chat_callers import Caller
from lambent.http.chat_stream import Json
from lambent.http.problems import Rejected, request_id_of
from lambent.ids import ulid_time
from lambent.streams.values import StreamStatus

if TYPE_CHECKING:
    from lambent.streams.values import Stream

_LARGEST_ID: Final = 1 << 50
# A stream gets its document with its first writing: whoever asks sooner waits a little.
_FRESH: Final = timedelta(seconds=1.5)
_LOOK_AGAIN_S: Final = 0.1


def stream_routes(service: ChatService) -> list[Route]:
    """The routes of kept streams."""
    routes = StreamRoutes(service)
    return [
        Route("/chat/streams/{id}", routes.stream, methods=["GET", "DELETE"]),
        Route("/chat/streams/{id}/lease", routes.lease, methods=["POST"]),
    ]


class StreamRoutes:
    """One method a route; each returns the ASGI application that sends its answer."""

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def stream(self, request: Request) -> Any:
        if request.method == "DELETE":
            return await self._stop(request)
        caller = Caller(self._service, request)
        known = await caller.known()
        headers = caller.headers(known.limit)
        try:
            return await self._resume(request, known, headers)
        except LambentError as error:
            raise Rejected(error, headers) from None

    async def lease(self, request: Request) -> Any:
        known = await Caller(self._service, request).known(limited=False)
        stream = await self._find(request.path_params["id"], known.client)
        until = await self._service.streams.renew_readers(stream)
        told = None if until is None else until.isoformat().replace("+00:00", "Z")
        return Json({"id": stream.id, "status": stream.status.value, "lease_until": told}, {})

    async def _stop(self, request: Request) -> Any:
        from lambent.streams.keeper import Why

        # A stop is not counted: it has to be possible where the limit is used up.
        known = await Caller(self._service, request).known(limited=False)
        id = request.path_params["id"]
        if (turn := self._service.stream_here(id, client=known.client)) is not None:
            turn.stop(Why.ASKED)
            return Json({"id": id, "status": "stopping"}, {}, status=202)
        stream = await self._find(id, known.client)
        if stream.status is not StreamStatus.LIVE:
            return Json({"id": id, "status": stream.status.value}, {})
        await self._service.streams.ask_stop(id, client=known.client)
        return Json({"id": id, "status": "stopping"}, {}, status=202)

    async def _resume(self, request: Request, known: Known, headers: dict[str, str]) -> Any:
        from lambent.http.kept_stream import StreamAnswer, StreamElsewhere, stream_headers
        from lambent.streams.reader import StreamReader

        id, after = request.path_params["id"], _last_event(request)
        service = self._service
        keep_alive_s, clock = service.settings.keep_alive_s, service.clock
        if (turn := service.stream_here(id, client=known.client)) is not None:
            return StreamAnswer(
                turn, headers=headers, keep_alive_s=keep_alive_s, clock=clock,
                after=after, first=False,
            )  # fmt: skip
        stream = await self._find(id, known.client)
        if stream.status is StreamStatus.LIVE:
            await service.streams.attach(stream)
        reader = StreamReader(service.streams, stream, after=after, clock=clock)
        return StreamElsewhere(
            reader.events(),
            dialect=stream.dialect,
            headers={**headers, **stream_headers(id)},
            keep_alive_s=keep_alive_s,
            clock=clock,
            request_id=request_id_of(request.scope),
        )

    async def _find(self, id: str, client: str) -> Stream:
        store, clock = self._service.streams, self._service.clock
        fresh_until = ulid_time(id) + _FRESH
        while (found := await store.look(id)) is None and clock.now() < fresh_until:
            await clock.sleep(_LOOK_AGAIN_S)
        if found is None or found.client != client:
            raise NotFound(f"There is no stream {id[:100]!r}.")
        return found


def _last_event(request: Request) -> int:
    text = request.headers.get("last-event-id", "").strip() or "0"
    if not (text.isascii() and text.isdecimal() and int(text[:20]) < _LARGEST_ID):
        raise RequestError("Last-Event-ID is the number of an event of this stream.")
    return int(text)
