"""What a browser adds to a request: the session's cookie, a CSRF token, and where it came from."""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from lambent.admission.sessions import SESSION_S, Session, Sessions

_PLAIN: Final = "lambent-session"
# The prefix makes browsers refuse the cookie from any other host, and over plain HTTP.
_SECURE: Final = "__Host-lambent-session"


def is_secure(request: Request) -> bool:
    """Whether the browser speaks HTTPS; only a local stack does not."""
    return request.headers.get("x-forwarded-proto", request.url.scheme) == "https"


async def session_of(request: Request, sessions: Sessions) -> Session | None:
    """Who is signed in, or None."""
    text = request.cookies.get(_SECURE if is_secure(request) else _PLAIN)
    return await sessions.resume(text) if text else None


def keep_session(request: Request, response: Response, session: Session) -> None:
    """Set the cookie: never sent along from another site, never seen by a script."""
    secure = is_secure(request)
    response.set_cookie(
        _SECURE if secure else _PLAIN,
        session.text,
        max_age=SESSION_S,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def drop_session(request: Request, response: Response) -> None:
    """Take the cookie away."""
    secure = is_secure(request)
    name = _SECURE if secure else _PLAIN
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")


def is_own_form(request: Request) -> bool:
    """Whether the request was sent by a page of ours, as far as the browser says so.

    `Sec-Fetch-Site` cannot be set by any page; behind CloudFront it is the only word on it, for
    there the host that a function sees is not the one in the browser's address bar.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return True  # no browser of the last ten years; the CSRF token still has to be right
    return urlsplit(origin).netloc == request.headers.get("host", "")


def is_own_token(session: Session, sent: str) -> bool:
    """Whether the form carries this session's CSRF token."""
    return hmac.compare_digest(session.csrf.encode(), sent.encode(errors="replace"))


def own_path(text: str | None) -> str:
    """Where to go next: only ever to one of our own pages."""
    if not text or not text.startswith("/admin") or not text.isprintable() or "\\" in text:
        return "/admin"
    parts = urlsplit(text)
    if parts.scheme or parts.netloc or ".." in parts.path.split("/"):
        return "/admin"
    rest = parts.path.removeprefix("/admin")
    if rest and not rest.startswith("/"):
        return "/admin"
    return text
