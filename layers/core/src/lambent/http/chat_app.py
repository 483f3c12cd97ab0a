"""The chat function's HTTP application: `/chat`, `/chat/stream`, `/agents`, `/health`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lambent import __version__
from lambent.admission.keys import credential_of
from lambent.chat.live_turn import LiveTurn
from lambent.chat.service import ChatService
from lambent.chat.values import ChatRequest, Refusal
from lambent.errors import NotFound, RequestError, TooLarge
from lambent.http.bodies import read_json
from lambent.http.chat_requests import parse_chat
from lambent.http.chat_stream import EventStreamAnswer, JsonAnswer
from lambent.http.problems import ProblemsMiddleware, Rejected, send_json

T = TypeVar("T")


def build_chat_app(service: ChatService, *, more: Sequence[Route] = ()) -> ASGIApp:
    """The application, with `more` routes; it owns no connection and needs no lifespan."""
    routes = ChatRoutes(service)
    router = Router(
        routes=[
            Route("/chat", routes.chat, methods=["POST"]),
            Route("/chat/stream", routes.chat_stream, methods=["POST"]),
            Route("/agents", routes.agents, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            *more,
        ],
        redirect_slashes=False,
        default=_nothing_here,
    )
    return ProblemsMiddleware(_marked(router), clock=service.clock)


class ChatRoutes:
    """One method a route; each returns the ASGI application that sends its answer."""

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def chat(self, request: Request) -> Any:
        asked = await self._asked(request)
        model = self._service.model_for(asked)
        return JsonAnswer(await self._start(asked, request), agent=asked.agent, model=model)

    async def chat_stream(self, request: Request) -> Any:
        live = await self._start(await self._asked(request), request)
        keep_alive_s = self._service.settings.keep_alive_s
        return EventStreamAnswer(live, keep_alive_s=keep_alive_s, clock=self._service.clock)

    async def agents(self, request: Request) -> Any:
        headers = _allowed(await self._service.check(_credential(request)))
        infos = self._service.registry.infos()
        agents = [
            {
                "name": info.name,
                "description": info.description,
                "model": info.model or self._service.settings.ollama_model,
                "examples": list(info.examples),
            }
            for info in infos
        ]
        return _Json({"agents": agents}, headers)

    async def health(self, request: Request) -> Any:
        # Liveness only: it asks no store, so it costs nothing and fails for nobody else's fault.
        return _Json({"status": "ok", "version": __version__}, {})

    async def _asked(self, request: Request) -> ChatRequest:
        """The request; one that is not valid still has to bring a key and counts as one."""
        try:
            asked = parse_chat(await read_json(request))
            if asked.conversation is not None:
                raise NotFound(f"There is no conversation {asked.conversation!r}.")
            return asked
        except TooLarge:
            raise
        except RequestError as error:
            checked = await self._service.check(_credential(request))
            raise Rejected(error, _allowed(checked)) from None

    async def _start(self, asked: ChatRequest, request: Request) -> LiveTurn:
        credential = _credential(request)
        return _allowed(await self._service.start(asked, credential=credential))


def _credential(request: Request) -> str | None:
    headers = request.headers
    return credential_of(headers.get("authorization"), headers.get("x-api-key"))


def _allowed(answer: T | Refusal) -> T:
    if isinstance(answer, Refusal):
        raise Rejected(answer.error, answer.headers)
    return answer


class _Json:
    def __init__(self, body: object, headers: Mapping[str, str]) -> None:
        self._body = body
        self._headers = {**headers, "cache-control": "no-store"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, self._body, headers=self._headers)


def _marked(router: Router) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Routes raise their 405 instead of answering it in plain text where this is set.
        scope["app"] = router
        await router(scope, receive, send)

    return app


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound("There is nothing at this path.")
