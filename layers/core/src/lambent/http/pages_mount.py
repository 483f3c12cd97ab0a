"""Sends requests for admin pages to their application, which is loaded at the first of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

# What stands below /admin and is the API's.
_API: Final = frozenset({"breakers", "models"})


class PagesMount:
    """`api` is what stands behind admission: the pages ask it for the person who is signed in."""

    def __init__(self, app: ASGIApp, api: ASGIApp, build: Callable[[ASGIApp], ASGIApp]) -> None:
        self._app = app
        self._api = api
        self._build = build
        self._pages: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._pages is None:
            self._pages = self._build(self._api)
        await self._pages(scope, receive, send)


def is_page(path: str) -> bool:
    """Whether the path is a page's."""
    _, first, *rest = (*path.split("/"), "", "")
    return first == "admin" and rest[0] not in _API
