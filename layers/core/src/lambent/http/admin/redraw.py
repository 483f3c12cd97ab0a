"""Draws the page of a refused form again, with what was entered and why it was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import compile_path

from lambent.errors import LambentError
from lambent.http.admin.api import Failed
from lambent.http.admin.pages import PAGES
from lambent.http.admin.refill import refill
from lambent.http.admin.view import PageFunction, View

_ROUTES: Final = tuple((compile_path(path), page) for path, page in PAGES)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a form was not taken: `fields` are the names of those that are at fault, if known."""

    status: int
    detail: str
    fields: frozenset[str] = frozenset()


def refusal_of(error: Failed | LambentError) -> Refusal:
    """What the API, or the form's own reading, had to say."""
    if isinstance(error, Failed):
        said = error.answer.data if isinstance(error.answer.data, Mapping) else {}
        return Refusal(error.answer.status, error.answer.detail, _fields(said))
    return Refusal(error.status, error.detail, _fields(error.fields))


def _fields(said: Mapping[str, Any]) -> frozenset[str]:
    names = {str(one.get("field", "")) for one in said.get("errors", ())}
    # A form asks for the first part of a field such as `input.feeds.0`, or for the last of one.
    inside = {name.split(".")[1] for name in names if name.startswith("input.")}
    return frozenset(names | {name.partition(".")[0] for name in names} | inside | _last(names))


def _last(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


async def redrawn(
    view: View, action: str, form: Mapping[str, str], refusal: Refusal, *, back: str
) -> Response | None:
    """The page at `back`, with this form as it was sent; None where that page cannot be drawn."""
    asked = urlsplit(back)
    where = unquote(asked.path)
    scope = {**view.request.scope, "method": "GET", "path": where}
    pairs = [pair for pair in parse_qsl(asked.query) if pair[0] != "done"]
    scope |= {"raw_path": asked.path.encode(), "query_string": urlencode(pairs).encode()}
    page, params = _page(where)
    if page is None:
        return None
    try:
        drawn = await page(replace(view, request=Request(scope | {"path_params": params})))
    except (Failed, LambentError):
        return None  # the reason of the first refusal is the one to tell
    if not isinstance(drawn, HTMLResponse):
        return None
    text = bytes(drawn.body).decode()
    wrong = _entered(refusal.fields, form)
    filled = refill(text, action, form, reason=refusal.detail, wrong=wrong, back=back)
    return None if filled is None else HTMLResponse(filled, status_code=refusal.status)


def _entered(wrong: frozenset[str], form: Mapping[str, str]) -> frozenset[str]:
    """Where an input is at fault: the fields that it was made of, or the text of the whole."""
    if form.get("input", "").strip():
        return wrong & {"input"} or wrong
    fields = {name.removeprefix("kind.") for name in form if name.startswith("kind.")}
    return wrong & fields or wrong


def _page(path: str) -> tuple[PageFunction | None, dict[str, Any]]:
    for (pattern, _, parts), page in _ROUTES:
        if found := pattern.match(path):
            return page, {name: parts[name].convert(one) for name, one in found.groupdict().items()}
    return None, {}
