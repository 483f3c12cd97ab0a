"""Lets only requests in that came through the front, where one is configured, as their callers'."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from lambent.errors import NotThroughFront

ORIGIN_HEADER: Final = b"x-lambent-origin"
# They ask no store, and refusing them would cost as much as answering.
_LIVENESS: Final = ("/health", "/health/live")


class OnlyThroughFront:
    """Refuses a request without one of the origin secrets, before anything of it is looked at.

    A Function URL is public: without this a caller could go around the front and its firewall.
    Two secrets are good while one is being changed for the other. Behind it a request is from the
    address that the front names, not from one of the front's own, which many callers share.
    """

    def __init__(self, app: ASGIApp, *, secrets: Sequence[str]) -> None:
        self._app = app
        self._secrets = [secret.encode() for secret in secrets if secret]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._came_through(scope):
                scope = {**scope, "client": _caller(scope)}
            elif scope["path"] not in _LIVENESS:
                raise NotThroughFront("Send this to the address of the platform's front.")
        await self._app(scope, receive, send)

    def _came_through(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == ORIGIN_HEADER]
        if len(sent) != 1:  # the front replaces what a caller sends; two did not come from it
            return False
        # Each is compared, and in constant time: how long it took must tell nothing.
        return any([hmac.compare_digest(sent[0], secret) for secret in self._secrets])


def _caller(scope: Scope) -> tuple[str, int] | None:
    """Who asked the front: it adds that address at the end of what a caller may have made up.

    Whoever takes the request from the front may add the front's own, which is the connection's.
    """
    client: tuple[str, int] | None = scope.get("client")
    sent = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    named = [one.strip() for one in sent.decode("latin-1").split(",")]
    if len(named) > 1 and client is not None and named[-1] == client[0]:
        named.pop()
    try:
        return str(ipaddress.ip_address(named[-1])), 0
    except ValueError:
        return client


def through_front(app: ASGIApp, secrets: Sequence[str]) -> ASGIApp:
    """`app` itself where no secret is configured."""
    return OnlyThroughFront(app, secrets=secrets) if any(secrets) else app
