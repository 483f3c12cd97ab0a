"""OpenAI's API on the chat function: chat completions, models, embeddings and responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import Route

from lambent.chat.service import ChatService
from lambent.errors import LambentError
from lambent.http.chat_callers import Caller
from lambent.http.chat_stream import EventStreamAnswer, Json, JsonAnswer
from lambent.http.kept_stream import StreamAnswer
from lambent.http.keyed import Began, keyed
from lambent.http.openai_errors import openai_limit_headers
from lambent.http.problems import Rejected
from lambent.http.stream_following import Words
from lambent.streams.values import Dialect

if TYPE_CHECKING:
    from lambent.chat.live_turn import LiveTurn
    from lambent.chat.stream_turn import FrameEncoder
    from lambent.chat.values import StreamWish
    from lambent.http.openai_answers import ChunkEncoder
    from lambent.http.openai_requests import Asked as CompletionAsked
    from lambent.models.values import ModelInfo

# Bodies and answers are imported by the first request that needs them: their schemas take a few
# milliseconds to build, which a function that only serves /chat shall not pay when it starts.


def openai_routes(service: ChatService) -> list[Route]:
    """Its routes; `OpenAiErrors` has to stand around them."""
    routes = OpenAiRoutes(service)
    return [
        Route(
            "/v1/chat/completions",
            keyed(
                routes.completions,
                service,
                limit_headers=openai_limit_headers,
                words_of=routes.completion_words,
            ),
            methods=["POST"],
        ),
        Route(
            "/v1/embeddings",
            keyed(routes.embeddings, service, limit_headers=openai_limit_headers),
            methods=["POST"],
        ),
        Route(
            "/v1/responses",
            keyed(
                routes.respond,
                service,
                limit_headers=openai_limit_headers,
                words_of=routes.response_words,
            ),
            methods=["POST"],
        ),
        Route("/v1/responses/{id}", routes.response, methods=["GET", "DELETE"]),
        Route("/v1/models", routes.models, methods=["GET"]),
        # Names of models hold slashes and colons: "hf.co/team/model:q4".
        Route("/v1/models/{id:path}", routes.model, methods=["GET"]),
    ]


class OpenAiRoutes:
    """One method a route; each returns the ASGI application that sends its answer."""

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def completions(self, request: Request) -> Any:
        from lambent.http.openai_answers import COMPLETION, CompletionBodyOf, Naming

        caller = self._caller(request)
        asked = await self._completion(caller)
        wish = await caller.wish()
        made = replace(asked.request, patient=asked.stream)
        live = await caller.start(made, wish=wish if asked.stream else None)
        headers = caller.headers(live.limit)
        if not asked.stream:
            naming = Naming.of(COMPLETION, live.id, asked.model)
            return JsonAnswer(live, CompletionBodyOf(naming, asked.plan), headers=headers)
        encoder = _chunk_encoder(asked, live.id)
        return self._streamed(live, encoder, Dialect.COMPLETIONS, wish=wish, headers=headers)

    async def completion_words(self, request: Request, began: Began) -> Words:
        """Those of a stream that the same request has begun."""
        asked = await self._completion(self._caller(request))
        return Words(_chunk_encoder(asked, began.turn), Dialect.COMPLETIONS)

    async def embeddings(self, request: Request) -> Any:
        from lambent.http.openai_embeddings import embedding_body, parse_embedding

        caller = self._caller(request)
        asked = await caller.asked(parse_embedding)
        done = caller.allowed(
            await self._service.embed(
                asked.model, asked.inputs, credential=caller.credential, counted=caller.counted
            )
        )
        headers = caller.headers(done.limit)
        try:
            return Json(embedding_body(asked, done.embeddings), headers)
        except LambentError as error:
            raise Rejected(error, headers) from None

    async def respond(self, request: Request) -> Any:
        from lambent.http.openai_response_turns import ResponseTurn, parse_response

        caller = self._caller(request)
        turn = ResponseTurn(await caller.asked(parse_response), self._service.responses)
        wish = await caller.wish()
        made = replace(turn.request, patient=turn.stream)
        live = await caller.start(made, wish=wish if turn.stream else None)
        headers = caller.headers(live.limit)
        if not turn.stream:
            body = turn.body_of(live.id, client=live.client)
            return JsonAnswer(live, body, headers=headers)
        encoder = turn.encoder_of(live.id, client=live.client)
        return self._streamed(live, encoder, Dialect.RESPONSES, wish=wish, headers=headers)

    async def response_words(self, request: Request, began: Began) -> Words:
        """Those of a stream that the same request has begun."""
        from lambent.http.openai_response_turns import ResponseTurn, parse_response

        asked = await self._caller(request).asked(parse_response)
        turn = ResponseTurn(asked, self._service.responses)
        encoder = turn.encoder_again(began.turn, client=began.client, answered=began.answered)
        return Words(encoder, Dialect.RESPONSES)

    async def response(self, request: Request) -> Any:
        from lambent.http.openai_fields import check_query

        caller = self._caller(request)
        known = await caller.known()
        headers, id = caller.headers(known.limit), request.path_params["id"]
        try:
            check_query(request.query_params)
            if request.method == "DELETE":
                await self._service.responses.delete(id, client=known.client)
                return Json({"id": id, "object": "response", "deleted": True}, headers)
            return Json(await self._service.responses.get(id, client=known.client), headers)
        except LambentError as error:
            raise Rejected(error, headers) from None

    async def models(self, request: Request) -> Any:
        from lambent.http.openai_models import list_of

        headers = await self._caller(request).check()
        return Json(list_of(await self._models(headers), self._service.registry.infos()), headers)

    async def model(self, request: Request) -> Any:
        from lambent.http.openai_models import one_of_all

        headers = await self._caller(request).check()
        models, agents = await self._models(headers), self._service.registry.infos()
        try:
            return Json(one_of_all(request.path_params["id"], models, agents), headers)
        except LambentError as error:
            raise Rejected(error, headers) from None

    def _streamed(
        self,
        live: LiveTurn,
        encoder: FrameEncoder,
        dialect: Dialect,
        *,
        wish: StreamWish,
        headers: Mapping[str, str],
    ) -> Any:
        """Kept only where that was asked for: `id:` lines are not what each client expects."""
        keep_alive_s, clock = self._service.settings.keep_alive_s, self._service.clock
        if not wish.lasting:
            return EventStreamAnswer(
                live, encoder, headers=headers, keep_alive_s=keep_alive_s, clock=clock
            )
        turn = self._service.stream(live, encoder, dialect=dialect, wish=wish)
        return StreamAnswer(turn, headers=headers, keep_alive_s=keep_alive_s, clock=clock)

    async def _completion(self, caller: Caller) -> CompletionAsked:
        from lambent.http.openai_requests import parse_completion

        most = self._service.settings.max_num_ctx
        return await caller.asked(partial(parse_completion, max_num_ctx=most))

    async def _models(self, headers: Mapping[str, str]) -> tuple[ModelInfo, ...]:
        try:
            return await self._service.models()
        except LambentError as error:
            raise Rejected(error, headers) from None

    def _caller(self, request: Request) -> Caller:
        return Caller(self._service, request, limit_headers=openai_limit_headers)


def _chunk_encoder(asked: CompletionAsked, turn: str) -> ChunkEncoder:
    from lambent.http.openai_answers import COMPLETION, ChunkEncoder, Naming

    naming = Naming.of(COMPLETION, turn, asked.model)
    return ChunkEncoder(naming, asked.plan, include_usage=asked.include_usage)
