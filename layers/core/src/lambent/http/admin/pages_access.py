"""Pages of keys, of what was used, and of what admins did."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from lambent.admission.decisions import Scope
from lambent.admission.reports import MOST_ROWS
from lambent.http.admin.actions import BUDGETS, EDGES
from lambent.http.admin.api import Failed, path
from lambent.http.admin.formats import instant, utc_of
from lambent.http.admin.view import View

_SHOWN: Final = 50
_SCOPES: Final = tuple(scope.value for scope in Scope)


async def keys(view: View) -> Response:
    """The keys, revoked ones too, and a form for another one."""
    page = await view.api.get(
        "/keys", client=view.query.get("client"), cursor=view.query.get("cursor"), limit=_SHOWN
    )
    for one in page["keys"]:
        one["state"] = _state(view, one)
    return view.page("keys.html", keys=page["keys"], cursor=page["cursor"], scopes=_SCOPES)


def _state(view: View, key: dict[str, Any]) -> str:
    ends = instant(key["expires_at"])
    expired = "expired" if ends is not None and ends <= view.clock.now() else "active"
    return "revoked" if key["revoked_at"] else expired


async def key(view: View) -> Response:
    """One key: its facts, what is used of its budgets, and a form for its limits."""
    found = await view.api.get(path("keys", view.request.path_params["key"]))
    found["state"] = _state(view, found)
    answer = await view.api.maybe("/budgets", client=found["client"])
    used = [
        one
        for one in (answer or {"budgets": []})["budgets"]
        if (one["kind"], one["owner"]) == ("key", found["id"])
    ]
    places = {f"{one['period']}.{one['unit']}": one for one in used}
    budgets = [
        {
            "name": f"{period}.{unit}",
            "label": f"{unit.capitalize()} a {period}",
            **{edge: _plain(places.get(f"{period}.{unit}", {}).get(edge)) for edge in EDGES},
        }
        for period, unit in BUDGETS
    ]
    return view.page("key.html", key=found, used=used, budgets=budgets if answer else None)


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:.15g}"


async def audit(view: View) -> Response:
    """What was changed, by whom, and how it ended."""
    names = ("key_id", "action", "target", "cursor")
    asked = {name: view.query.get(name) for name in names}
    asked |= {name: utc_of(view.query[name]) for name in ("from", "until") if name in view.query}
    page = await view.api.get("/audit", **asked, limit=_SHOWN)
    return view.page("audit.html", entries=page["entries"], cursor=page["cursor"])


_ROWS: Final = 100
_BUDGETS: Final = 20


def _place(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0


_GROUPS: Final = ("day", "client", "key", "agent", "model", "day,client", "day,model")


async def usage(view: View) -> Response:
    """What was used, by whom, and the budgets."""
    group = view.query.get("group_by", "day")
    group = group if group in _GROUPS else "day"
    asked = {**_asked(view), "group_by": group, "limit": MOST_ROWS}
    answer = await view.api.call("GET", "/usage", query=asked)
    if answer.status in (400, 422):  # a wrong filter; the rest: usage is not counted here
        raise Failed(answer)
    rows = answer.data["rows"] if answer.good else []
    if group.startswith("day"):
        rows.reverse()  # the newest first
    budgets = await view.api.maybe("/budgets", client=view.query.get("client"))
    first = _place(view.query.get("budgets"))
    return view.page(
        "usage.html",
        usage=answer.data if answer.good else None,
        rows=rows[:_ROWS],
        more=len(rows) > _ROWS,
        budgets=budgets,
        first=first,
        shown=budgets["budgets"][first : first + _BUDGETS] if budgets else [],
        step=_BUDGETS,
        group=group,
        groups=_GROUPS,
    )


async def usage_csv(view: View) -> Response:
    """The same as a file."""
    group = view.query.get("group_by", "day")
    text = await view.api.get("/usage", **_asked(view), group_by=group, format="csv")
    headers = {"content-disposition": 'attachment; filename="usage.csv"'}
    return Response(str(text), media_type="text/csv", headers=headers)


def _asked(view: View) -> dict[str, str | None]:
    return {name: view.query.get(name) for name in ("from", "to", "client")}
