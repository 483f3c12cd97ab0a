"""One request of somebody who is signed in: the API as they may use it, and how to answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lambent.admission.sessions import Session
from lambent.clock import Clock
from lambent.http.admin.api import Api
from lambent.http.admin.formats import a_day_before, formats

NAVIGATION: Final = (
    ("", (("/admin", "Overview"),)),
    (
        "Work",
        (
            ("/admin/runs", "Runs"),
            ("/admin/workflows", "Workflows"),
            ("/admin/events", "Events"),
            ("/admin/schedules", "Schedules"),
            ("/admin/webhooks", "Webhooks"),
        ),
    ),
    ("Models", (("/admin/playground", "Playground"), ("/admin/hosts", "Model servers"))),
    (
        "Access",
        (("/admin/keys", "Keys"), ("/admin/usage", "Usage"), ("/admin/audit", "Audit")),
    ),
)

# After an action its page says so; by name, so that no link can put words on a page.
DONE: Final[Mapping[str, str]] = {
    "cancel": "The run is being cancelled.",
    "pause": "The run will pause.",
    "resume": "The run goes on.",
    "retry": "The run is tried again.",
    "restart": "The run starts again.",
    "delete": "The run is gone.",
    "bulk-cancel": "Runs being cancelled: {n}. Those that changed meanwhile are as they were.",
    "bulk-retry": "Runs tried again: {n}. Those that changed meanwhile are as they were.",
    "start": "The run has started.",
    "call-approve": "The call is approved.",
    "call-decline": "The call is declined.",
    "conversation": "The conversation is gone.",
    "event": "The event is published.",
    "replay": "It is sent again.",
    "schedule": "The schedule is made.",
    "schedule-changed": "The schedule is changed.",
    "webhook-changed": "The webhook is changed.",
    "key-changed": "The key is changed.",
    "key-revoked": "The key is revoked.",
    "signed-out": "Every session of that key is signed out.",
    "breaker": "The breaker is set.",
    "model": "The model server is told.",
    "budget": "The budgets are changed.",
}


@dataclass(frozen=True, slots=True)
class View:
    """What a page function gets."""

    request: Request
    session: Session
    api: Api
    templates: Environment
    clock: Clock
    chat_base: str

    @property
    def query(self) -> dict[str, str]:
        """The first value of each query parameter."""
        return {key: value for key, value in self.request.query_params.items() if value}

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """The rendered template."""
        field = f'<input type="hidden" name="csrf" value="{escape(self.session.csrf)}">'
        first = "/".join(self.request.url.path.split("/")[:3])
        text = self.templates.get_template(template).render(
            here=first,
            navigation=NAVIGATION,
            who=self.session.principal,
            may_change=self.session.may_change,
            csrf=lambda: Markup(field),  # escaped a line above
            done=self._done(),
            query={k: v for k, v in self.query.items() if k not in ("done", "n")},
            path=self.request.url.path,
            chat_base=self.chat_base,
            now=self.clock.now().isoformat(),
            **{"live": "", **context},
        )
        return HTMLResponse(text, status_code=status)

    def _done(self) -> str | None:
        told, count = DONE.get(self.query.get("done", "")), self.query.get("n", "")
        if told is None or not (count.isascii() and count.isdigit()):
            return told if told is None else told.replace(": {n}", "")
        return told.replace("{n}", f"{int(count[:9]):,}")


PageFunction = Callable[[View], Awaitable[Response]]


def done(path: str, name: str) -> Response:
    """Off to a page, which then says what was done."""
    separator = "&" if "?" in path else "?"
    return RedirectResponse(f"{path}{separator}done={name}", status_code=303)


def make_templates(clock: Clock) -> Environment:
    """The templates; everything that is put into one is escaped."""
    templates = Environment(
        loader=PackageLoader("lambent.http.admin", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(formats(clock))
    templates.globals["asset"] = asset_path
    templates.globals["a_day_ago"] = lambda: a_day_before(clock.now())
    return templates


@cache
def asset(name: str) -> bytes | None:
    """A file of ours for the browser; None for any other name."""
    if not name.replace(".", "").replace("-", "").isalnum() or name.startswith("."):
        return None
    found = files("lambent.http.admin") / "static" / name
    return found.read_bytes() if found.is_file() else None


@cache
def asset_path(name: str) -> str:
    """Its address, which changes with its content: so browsers may keep it for ever."""
    data = asset(name)
    assert data is not None, name
    return f"/admin/static/{name}?v={hashlib.sha256(data).hexdigest()[:12]}"
