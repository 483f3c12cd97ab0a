"""The gateway's application: FastAPI with our routers, admission in front, problems around."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from lambent import __version__
from lambent.admission.audit import Audit
from lambent.admission.gate import Gate
from lambent.clock import Clock
from lambent.errors import LambentError, MethodNotAllowed, RequestError, Unprocessable
from lambent.http.admin_headers import AdminHeaders
from lambent.http.audited import AuditMiddleware
from lambent.http.authorize import AdmissionMiddleware
from lambent.http.front import through_front
from lambent.http.observed import Observed
from lambent.http.pages_mount import PagesMount
from lambent.http.problems import (
    ProblemsMiddleware,
    as_lambent,
    error_headers,
    problem,
    request_id_of,
)
from lambent.http.sections import Section, Sections
from lambent.metrics import Metric
from lambent.telemetry import log_fields, logger

_DESCRIPTION = (
    "Keys, runs, events and administration. Chats are streamed by the chat function. "
    "Send a key as `Authorization: Bearer lam_…` or `X-API-Key`. "
    "Errors are problem documents (RFC 9457)."
)
_PUBLIC = ("/health", "/docs", "/openapi.json", "/callbacks/", "/favicon.ico")


def build_gateway_app(
    *,
    gate: Gate,
    clock: Clock,
    pings: Mapping[str, Callable[[], Awaitable[None]]],
    routers: Iterable[APIRouter] = (),
    sections: Iterable[Section] = (),
    prepared: bool = False,
    audit: Audit | None = None,
    pages: Callable[[ASGIApp], ASGIApp] | None = None,
    origin_secrets: Sequence[str] = (),
    chat_base: str = "",
) -> ASGIApp:
    """An ASGI application; `pings` are what `/health/ready` asks, by the service's name.

    `sections` are built at their first request, or at once where it is `prepared`; `pages` makes
    the admin pages, at the first request for one, over the API behind admission; their scripts may
    ask the chat function at `chat_base` too.
    """
    app = FastAPI(
        title="Lambent",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Spans and metrics of requests are ours; FastAPI's own log tells what exceptions say.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    for router in routers:
        app.include_router(router)
    app.add_route("/", _root, include_in_schema=False)
    lazy = Sections(app, [_health(pings, clock), _reference(app), *sections])
    for kind in (LambentError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    _describe(app, lazy)
    if prepared:
        lazy.open_all()
    api = lazy.opening(app)
    if audit is not None:
        api = AuditMiddleware(api, audit)
    # Behind admission: a caller without a key does not make anything be built.
    outer: ASGIApp = AdmissionMiddleware(api, gate=gate, public=_PUBLIC)
    if pages is not None:
        outer = PagesMount(outer, api, pages)
    outer = through_front(_head_as_get(outer), origin_secrets)
    outer = AdminHeaders(ProblemsMiddleware(outer, clock=clock), chat_base=chat_base)
    return Observed(outer, failed=Metric.GATEWAY_FAILED, after=gate.tell_tally)


def _head_as_get(app: ASGIApp) -> ASGIApp:
    """HEAD is answered wherever GET is (RFC 9110, 9.1); a Function URL leaves the body out."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return answering


async def _root(request: Request) -> Response:
    return RedirectResponse("/docs")


def _health(pings: Mapping[str, Callable[[], Awaitable[None]]], clock: Clock) -> Section:
    def build() -> APIRouter:
        from lambent.http.health import health_router

        return health_router(pings, clock)

    return Section(("health",), build)


def _reference(app: FastAPI) -> Section:
    def build() -> APIRouter:
        from lambent.http.reference import reference_router

        return reference_router(app)

    return Section(("docs",), build)


def _describe(app: FastAPI, sections: Sections) -> None:
    own = app.openapi
    documents: list[dict[str, Any]] = []

    def whole() -> dict[str, Any]:
        if not documents:
            from lambent.http.chat_reference import add_chat_routes

            sections.open_all()
            documents.append(add_chat_routes(own()))
        return documents[0]

    app.openapi = whole  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _allowed(request: Request) -> str:
    """Every method of the path: the router names those of the first route that fits it."""
    takes = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    ]
    return ", ".join(dict.fromkeys(["GET", "HEAD", *takes] if "GET" in takes else takes))


async def _answer(request: Request, error: Exception) -> Response:
    failure, headers = as_lambent(error)
    if isinstance(failure, MethodNotAllowed):
        headers = {"Allow": _allowed(request)}
        failure = MethodNotAllowed(fields={"allow": headers["Allow"]})
    request_id = request_id_of(request.scope)
    if failure.status == 500 and isinstance(error, LambentError):  # others come out and are logged
        logger().error("A request failed", exc_info=error, **log_fields(request_id=request_id))
    return JSONResponse(
        problem(failure, request_id),
        status_code=failure.status,
        headers={**headers, **error_headers(failure)},
        media_type="application/problem+json",
    )


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        broken = next(one for one in found if one["type"] == "json_invalid")
        said = broken.get("ctx", {}).get("error", "it cannot be read")
        return await _answer(request, RequestError(f"The body is no JSON: {said}."))
    fields = [
        {"field": ".".join(str(part) for part in one["loc"][1:]) or one["loc"][0],
         "message": one["msg"]}
        for one in found
    ]  # fmt: skip
    named = ", ".join(str(one["field"]) for one in fields)
    return await _answer(request, Unprocessable(f"Not valid: {named}.", fields={"errors": fields}))
