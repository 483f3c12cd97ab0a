"""The overview, the model servers, the playground and the charts."""

from __future__ import annotations

from starlette.responses import Response

from lambent.errors import NotFound
from lambent.http.admin.view import View


async def overview(view: View) -> Response:
    """What runs, what waits and what needs attention now."""
    return view.page("overview.html", live="poll")


async def hosts(view: View) -> Response:
    """The model servers."""
    return view.page("hosts.html")


async def playground(view: View) -> Response:
    """A chat with any agent or model."""
    return view.page("playground.html")


async def chart(view: View) -> Response:
    """A chart as an image."""
    raise NotFound("There is no such chart.")
