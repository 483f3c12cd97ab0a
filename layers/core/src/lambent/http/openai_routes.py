"""OpenAI's API on the chat function: /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from lambent.chat.service import ChatService
from lambent.http.chat_callers import Caller
from lambent.http.chat_stream import EventStreamAnswer, JsonAnswer
from lambent.http.openai_answers import ChunkEncoder, CompletionBodyOf, Naming
from lambent.http.openai_errors import openai_limit_headers
from lambent.http.openai_requests import parse_completion


def openai_routes(service: ChatService) -> list[Route]:
    """Its routes; `OpenAiErrors` has to stand around them."""
    routes = OpenAiRoutes(service)
    return [Route("/v1/chat/completions", routes.completions, methods=["POST"])]


class OpenAiRoutes:
    """One method a route; each returns the ASGI application that sends its answer."""

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def completions(self, request: Request) -> Any:
        caller = self._caller(request)
        asked = await caller.asked(parse_completion)
        live = await caller.start(asked.request)
        created_s = int(self._service.clock.now().timestamp())
        naming = Naming(f"chatcmpl-{live.id}", asked.model, created_s)
        headers = caller.headers(live.limit)
        if not asked.stream:
            return JsonAnswer(live, CompletionBodyOf(naming, asked.plan), headers=headers)
        return EventStreamAnswer(
            live,
            ChunkEncoder(naming, asked.plan, include_usage=asked.include_usage),
            headers=headers,
            keep_alive_s=self._service.settings.keep_alive_s,
            clock=self._service.clock,
        )

    def _caller(self, request: Request) -> Caller:
        return Caller(self._service, request, limit_headers=openai_limit_headers)
