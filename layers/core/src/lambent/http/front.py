"""Lets only requests in that came through the front, where one is configured."""

from __future__ import annotations

import hmac
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
    Two secrets are good while one is being changed for the other.
    """

    def __init__(self, app: ASGIApp, *, secrets: Sequence[str]) -> None:
        self._app = app
        self._secrets = [secret.encode() for secret in secrets if secret]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (
            scope["path"] in _LIVENESS or self._came_through(scope)
        ):
            raise NotThroughFront("Send this to the address of the platform's front.")
        await self._app(scope, receive, send)

    def _came_through(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == ORIGIN_HEADER]
        if len(sent) != 1:  # the front replaces what a caller sends; two did not come from it
            return False
        # Each is compared, and in constant time: how long it took must tell nothing.
        return any([hmac.compare_digest(sent[0], secret) for secret in self._secrets])


def through_front(app: ASGIApp, secrets: Sequence[str]) -> ASGIApp:
    """`app` itself where no secret is configured."""
    return OnlyThroughFront(app, secrets=secrets) if any(secrets) else app
