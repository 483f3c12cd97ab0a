"""`/chat/streams/{id}`: resumes, stops, and keeps alive a stream, whichever process makes it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.routing import Route

from lambent.chat.service import ChatService
from lambent.errors import LambentError
from lambent.http.bodies import read_body
from lambent.http.chat_callers import Caller
from lambent.http.chat_stream import Json
from lambent.http.problems import Rejected
from lambent.http.stream_following import find_stream, follow_stream
from lambent.streams.values import StreamStatus

if TYPE_CHECKING:
    from lambent.streams.keeper import StreamKeeper

_LONGEST_CREDENTIAL: Final = 4096


def stream_routes(service: ChatService) -> list[Route]:
    """The routes of kept streams."""
    routes = StreamRoutes(service)
    return [
        Route("/chat/streams/{id}", routes.stream, methods=["GET", "DELETE"]),
        Route("/chat/streams/{id}/lease", routes.lease, methods=["POST"]),
        Route("/chat/streams/{id}/leave", routes.leave, methods=["POST"]),
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
            id = request.path_params["id"]
            return await follow_stream(
                self._service,
                request,
                id,
                client=known.client,
                headers=headers,
                longest_s=caller.longest_s,
            )
        except LambentError as error:
            raise Rejected(error, headers) from None

    async def lease(self, request: Request) -> Any:
        known = await Caller(self._service, request).known(limited=False)
        id = request.path_params["id"]
        if keeper := self._keeper_here(id, client=known.client):  # needs no MongoDB
            return _lease_told(id, StreamStatus.LIVE, keeper.renew_readers())
        stream = await find_stream(self._service, id, client=known.client)
        until = await self._service.streams.renew_readers(stream)
        live = stream.status is StreamStatus.LIVE
        return _lease_told(id, stream.status, until if live else None)

    async def leave(self, request: Request) -> Any:
        """For a page that goes away: a beacon brings no header, so its body is the credential."""
        sent = await read_body(request, limit_bytes=_LONGEST_CREDENTIAL)
        credential = sent.decode("ascii", errors="replace").strip()
        known = Caller(self._service, request, credential=credential)
        client = (await known.known(limited=False, leaving=True)).client
        id = request.path_params["id"]
        stream = await find_stream(self._service, id, client=client)
        if keeper := self._keeper_here(id, client=client):
            keeper.readers_left()
        until = await self._service.streams.leave(stream)
        return _lease_told(id, stream.status, until)

    def _keeper_here(self, id: str, *, client: str) -> StreamKeeper | None:
        turn = self._service.stream_here(id, client=client)
        return None if turn is None else turn.keeper

    async def _stop(self, request: Request) -> Any:
        from lambent.streams.keeper import Why

        # A stop is not counted: it has to be possible where the limit is used up.
        known = await Caller(self._service, request).known(limited=False)
        id = request.path_params["id"]
        turn = self._service.stream_here(id, client=known.client)
        if turn is not None and not turn.live.durable:
            turn.stop(Why.ASKED)
            return Json({"id": id, "status": "stopping"}, {}, status=202)
        stream = await find_stream(self._service, id, client=known.client)
        if stream.status is not StreamStatus.LIVE:
            return Json({"id": id, "status": stream.status.value}, {})
        if stream.made_by_run:
            await self._service.durable.stop(stream)
        else:
            await self._service.streams.ask_stop(id, client=known.client)
        return Json({"id": id, "status": "stopping"}, {}, status=202)


def _lease_told(id: str, status: StreamStatus, until: datetime | None) -> Json:
    told = None if until is None else until.isoformat().replace("+00:00", "Z")
    return Json({"id": id, "status": status.value, "lease_until": told}, {})
