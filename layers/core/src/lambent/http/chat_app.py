"""The chat function's HTTP application: `/chat`, `/chat/stream`, `/v1`, `/agents`, `/health`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lambent import __version__
from lambent.chat.service import ChatService
from lambent.errors import NotFound
from lambent.http.chat_callers import Caller
from lambent.http.chat_requests import parse_chat
from lambent.http.chat_stream import EventEncoder, Json, JsonAnswer, JsonBody
from lambent.http.front import through_front
from lambent.http.kept_stream import StreamAnswer
from lambent.http.keyed import keyed
from lambent.http.observed import Observed
from lambent.http.openai_errors import OpenAiErrors
from lambent.http.openai_routes import openai_routes
from lambent.http.problems import ProblemsMiddleware, request_id_of
from lambent.http.stream_routes import stream_routes
from lambent.metrics import Metric
from lambent.streams.values import Dialect


def build_chat_app(service: ChatService, *, more: Sequence[Route] = ()) -> ASGIApp:
    """The application, with `more` routes; it owns no connection and needs no lifespan."""
    routes = ChatRoutes(service)
    router = Router(
        routes=[
            Route("/chat", keyed(routes.chat, service), methods=["POST"]),
            Route("/chat/stream", keyed(routes.chat_stream, service), methods=["POST"]),
            Route("/agents", routes.agents, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            *stream_routes(service),
            *openai_routes(service),
            *more,
        ],
        redirect_slashes=False,
        default=_nothing_here,
    )
    inner = through_front(_marked(router), service.settings.origin_secrets)
    openai = OpenAiErrors(inner, clock=service.clock)
    outer = ProblemsMiddleware(openai, clock=service.clock)
    return Observed(outer, failed=Metric.CHAT_FAILED, after=service.tell_tally)


class ChatRoutes:
    """One method a route; each returns the ASGI application that sends its answer."""

    def __init__(self, service: ChatService) -> None:
        self._service = service
        self._parse = partial(parse_chat, max_num_ctx=service.settings.max_num_ctx)

    async def chat(self, request: Request) -> Any:
        caller = Caller(self._service, request)
        asked = replace(await caller.asked(self._parse), patient=False)
        live = await caller.start(asked)
        return JsonAnswer(
            live,
            JsonBody(live.id, agent=asked.agent or "", model=self._service.model_for(asked)),
            headers=caller.headers(live.limit),
        )

    async def chat_stream(self, request: Request) -> Any:
        caller = Caller(self._service, request)
        asked = await caller.asked(self._parse)
        wish = await caller.wish()
        live = await caller.start(asked, wish=wish)
        encoder = EventEncoder(request_id_of(request.scope))
        return StreamAnswer(
            self._service.stream(live, encoder, dialect=Dialect.LAMBENT, wish=wish),
            headers=caller.headers(live.limit),
            keep_alive_s=self._service.settings.keep_alive_s,
            clock=self._service.clock,
            # Nobody else makes a plain turn: its stream is as long as it is.
            longest_s=caller.longest_s if live.durable else None,
        )

    async def agents(self, request: Request) -> Any:
        headers = await Caller(self._service, request).check()
        infos = self._service.registry.infos()
        agents = [
            {
                "name": info.name,
                "description": info.description,
                "model": info.model or self._service.settings.ollama_model,
                "examples": list(info.examples),
                "durable": info.durable,
            }
            for info in infos
        ]
        return Json({"agents": agents}, headers)

    async def health(self, request: Request) -> Any:
        # Liveness only: it asks no store, so it costs nothing and fails for nobody else's fault.
        return Json({"status": "ok", "version": __version__}, {})


def _marked(router: Router) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Routes raise their 405 instead of answering it in plain text where this is set.
        scope["app"] = router
        await router(scope, receive, send)

    return app


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound("There is nothing at this path.")
