"""Puts strict headers on every answer below /admin: pages, their API, and errors of both."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FIXED: Final = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


def policy(chat_base: str) -> str:
    """The content security policy; `chat_base` is the chat function's address, if another."""
    connect = " ".join(["'self'", *([chat_base] if chat_base else [])])
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src {connect}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )


class AdminHeaders:
    """Outside of what makes problems of errors: those are opened in a browser too."""

    def __init__(self, app: ASGIApp, *, chat_base: str) -> None:
        self._app = app
        self._headers = [(b"content-security-policy", policy(chat_base).encode()), *_FIXED]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                named = {name.lower() for name, _ in own}  # a chart brings a policy of its own
                message["headers"] = [*own, *(one for one in self._headers if one[0] not in named)]
            await send(message)

        below = scope["type"] == "http" and f"{scope['path']}/".startswith("/admin/")
        await self._app(scope, receive, sending if below else send)
