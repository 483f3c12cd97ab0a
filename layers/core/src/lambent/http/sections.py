"""Routes that cost a cold start nothing: a section is imported and built by its first request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Section:
    """A router that serves everything under its `paths`: first segments, such as `runs`.

    `build` holds the imports too. It is called once, and never before it is needed.
    """

    paths: tuple[str, ...]
    build: Callable[[], APIRouter]


class Sections:
    """Opens each section of `app` when a request first asks for a path of it."""

    def __init__(self, app: FastAPI, sections: Iterable[Section]) -> None:
        self._app = app
        self._closed = {path: section for section in sections for path in section.paths}

    def open(self, first_segment: str) -> None:
        """Add the section's routes, unless they are there already."""
        section = self._closed.get(first_segment)
        if section is None:
            return
        # Built before it is forgotten: what fails once may succeed at the next request.
        router = section.build()
        for path in section.paths:
            del self._closed[path]
        self._app.include_router(router)

    def open_all(self) -> None:
        """For the API's description, and for a snapshot that many environments start from."""
        while self._closed:
            self.open(next(iter(self._closed)))

    def opening(self, app: ASGIApp) -> ASGIApp:
        """`app`, with a request's section opened in front of it."""

        async def opened(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and self._closed:
                self.open(scope["path"].lstrip("/").partition("/")[0])
            await app(scope, receive, send)

        return opened
