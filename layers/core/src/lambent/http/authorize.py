"""Admits a gateway request before anything of it is read, and checks scopes route by route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, assert_never

import pymongo
from fastapi import Request
from starlette import types
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send

from lambent.admission.decisions import (
    AdmissionRequest,
    Admitted,
    Principal,
    Queued,
    Refused,
    Scope,
)
from lambent.admission.gate import Gate
from lambent.admission.keys import credential_of
from lambent.admission.limits import headers as limit_headers
from lambent.errors import Forbidden
from lambent.http.audited import note_route
from lambent.http.problems import Rejected, encode_headers

Authorize = Callable[[Scope], Callable[[Request], Awaitable[Principal]]]

# MongoDB gets this much of a gateway request; then it is a 503.
_STORES_LIMIT_S: Final = 5.0


def authorize(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that gives the caller, or refuses one whose key lacks the scope."""

    async def dependency(request: Request) -> Principal:
        principal: Principal = request.state.principal
        note_route(request)
        if not principal.may(scope):
            raise Forbidden(f"This needs a key with the scope {scope.value!r}.")
        return principal

    return dependency


class AdmissionMiddleware:
    """Key and limit for every path that is not public, before the body is looked at.

    So a caller without a key learns nothing, not even which bodies would be valid.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, public: tuple[str, ...]) -> None:
        self._app = app
        self._gate = gate
        self._public = public

    async def __call__(self, scope: types.Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(self._public):
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope)
        credential = credential_of(sent.get("authorization"), sent.get("x-api-key"))
        request = AdmissionRequest(credential=credential, scope=None)
        match await self._gate.admit(request):
            case Admitted() as admitted:
                scope.setdefault("state", {})["principal"] = admitted.principal
                headers = limit_headers(admitted.limit)
            case Refused() as refused:
                raise Rejected(refused.error, limit_headers(refused.limit))
            case Queued():
                raise AssertionError("no slot was asked for")
            case never:
                assert_never(never)
        # For all store calls of the request together: several in a row must not add their limits.
        with pymongo.timeout(_STORES_LIMIT_S):
            await self._app(scope, receive, _adding(send, headers))


def _adding(send: Send, headers: Mapping[str, str]) -> Send:
    added = encode_headers(headers)

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *added]
        await send(message)

    return sending
