"""Writes every change that an admin key makes into the record: before it, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette import types
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Send

from lambent.admission.audit import Action, Audit
from lambent.admission.decisions import Principal, Scope
from lambent.http.problems import request_id_of

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(slots=True)
class Notes:
    """What a handler knows of the action better than its path does."""

    action: str | None = None
    target: str | None = None


def note_audit(request: Request, *, target: str) -> None:
    """Name what the request made or changed, where its path does not: a new key's id, say."""
    notes = getattr(request.state, "audit", None)
    if isinstance(notes, Notes):
        notes.target = target


def note_route(request: Request) -> None:
    """Name the action after the route that answers; every route that asks for a scope does."""
    notes = getattr(request.state, "audit", None)
    route = request.scope.get("route")
    if isinstance(notes, Notes) and route is not None:
        notes.action = str(route.name)
        notes.target = notes.target or _target(request.path_params)


class AuditMiddleware:
    """Stands behind admission: it needs to know who asks. Covers every route, present and future.

    Only what changes something and comes from a key with `admin` is recorded. What cannot be
    recorded is not done: where Postgres is gone, the request ends with a 503 before its action.
    """

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: types.Scope, receive: Receive, send: Send) -> None:
        action = self._action(scope)
        if action is None:
            await self._app(scope, receive, send)
            return
        notes = scope["state"]["audit"] = Notes()
        entry = await self._audit.begin(action)
        outcome = 500

        async def noting(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                outcome = int(message["status"])
                # Before the answer leaves: an environment may be frozen right after it.
                await self._audit.end(entry, outcome, action=notes.action, target=notes.target)
            await send(message)

        await self._app(scope, receive, noting)

    def _action(self, scope: types.Scope) -> Action | None:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            return None
        state: Mapping[str, Any] = scope.get("state", {})
        principal = state.get("principal")
        if not isinstance(principal, Principal) or not principal.may(Scope.ADMIN):
            return None
        via = str(state.get("via", "api"))
        if principal.key_id is None and via == "api":
            return None  # authentication is off: nobody is anybody
        return Action(
            principal=principal,
            action=str(scope["method"]),
            target=str(scope["path"]),
            via=via,
            address=address_of(scope),
            request_id=request_id_of(scope),
        )


def address_of(scope: types.Scope) -> str:
    """The address of who stands at the other end of the connection, or asked the front that does;
    without a front no header can change it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _target(path_params: Mapping[str, Any]) -> str | None:
    return "/".join(str(value) for value in path_params.values()) or None
