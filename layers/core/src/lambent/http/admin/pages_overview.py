"""The overview, the model servers, and charts for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from lambent.errors import NotFound
from lambent.http.admin.charts import bars
from lambent.http.admin.formats import a_day_before, span
from lambent.http.admin.view import View

_CHANGES: Final = 20
_LIMITS: Final = {
    "over_limit": "over its rate limit",
    "over_budget": "over its budget",
    "no_slot": "no free slot",
    "breaker_open": "breaker open",
}

_LATE_WORDS: Final = {
    "run": "A run",
    "event": "An event",
    "delivery": "A delivery to a webhook",
    "schedule": "A schedule",
}
_LATE_S: Final = 60.0
# A poller comes each minute and says that it is awake as soon as it finds something due.
_SILENT_S: Final = 150.0


async def overview(view: View) -> Response:
    """What runs, what waits and what needs attention now; each is a link to what it counts."""
    api = view.api
    found, ready, breakers, failed, activity = await asyncio.gather(
        api.get("/overview"),
        api.call("GET", "/health/ready"),
        api.maybe("/admin/breakers"),
        api.get("/runs", status="failed", limit=5),
        api.maybe("/overview/activity"),
    )
    services = ready.data.get("services", {}) if isinstance(ready.data, dict) else {}
    hosts = breakers["hosts"] if breakers else []
    return view.page(
        "overview.html",
        overview=found,
        services=services,
        hosts=hosts,
        failures=failed["runs"],
        activity=activity,
        limits=_LIMITS,
        attention=[
            *_attention(found, services, hosts, since=a_day_before(view.clock.now())),
            *_refusals(activity),
        ],
        live="poll",
    )


def _attention(
    found: dict[str, Any],
    services: dict[str, Any],
    hosts: list[dict[str, Any]],
    *,
    since: str,
) -> list[tuple[str, str, str]]:
    """What to look at: tone, sentence, link."""
    said: list[tuple[str, str, str]] = []
    for name, check in services.items():
        if check["status"] != "ok":
            said.append(("bad", f"{name} does not answer: {check['detail']}", "/admin"))
    for host in hosts:
        if host["configured"] and host["state"] != "closed":
            state = host["state"].replace("_", " ")
            said.append(("bad", f"The breaker of {host['host']} is {state}.", "/admin/hosts"))
    blocked = found["runs"]["blocked"]
    if blocked["count"]:
        link = "/admin/runs?status=blocked"
        said.append(("warn", f"Blocked runs: {_some(blocked)}.", link))
    said += _late(found)
    if (dead := found["dead_events"])["count"]:
        link = "/admin/events?status=failed"
        said.append(("warn", f"Events whose delivery was given up: {_some(dead)}.", link))
    for one in found["dead_letters"][:3]:
        link = f"/admin/webhooks/{one['webhook']}?status=dead"
        said.append(("warn", f"Dead letters of {one['url']}: {one['count']:,}.", link))
    failed = found["runs"]["failed"]
    if failed["count"]:
        link = f"/admin/runs?status=failed&created_from={since}"
        said.append(("", f"Failed runs of the last day: {_some(failed)}.", link))
    return said


def _late(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What is due for long; with no poller awake by then, it is not the load."""
    said = []
    if found["due_lag_s"] > _SILENT_S and not found["poller_awake"]:
        silent = f"No poller is awake, though work has been due for {span(found['due_lag_s'])}."
        said.append(("bad", silent, _late_link(found["late"][0])))
    for late in found["late"]:
        if late["lag_s"] > _LATE_S:
            text = f"{_LATE_WORDS[late['kind']]} has been due for {span(late['lag_s'])}."
            said.append(("warn", text, _late_link(late)))
    return said


def _late_link(late: dict[str, Any]) -> str:
    match late["kind"]:
        case "run":
            return f"/admin/runs/{late['id']}"
        case "event":
            return f"/admin/events/{late['id']}"
        case "delivery":
            return f"/admin/webhooks/{late['id'].partition('-')[2]}?status=pending"
        case _:
            return f"/admin/schedules/{late['id']}"


def _refusals(activity: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Who meets limits: the first three, since the others are in the table below."""
    said = []
    for one in (activity or {"refused": []})["refused"][:3]:
        words = [f"{one[name]:,} × {text}" for name, text in _LIMITS.items() if one[name]]
        link = f"/admin/keys?{urlencode({'client': one['client']})}"
        said.append(("", f"{one['client']} met limits in the last day: {', '.join(words)}.", link))
    return said


def _some(counted: dict[str, Any]) -> str:
    return f"{counted['count']:,}{'+' if counted['more'] else ''}"


async def hosts(view: View) -> Response:
    """The model servers: breaker with its history, slots, queue; trip and reset by hand."""
    known = await view.api.get("/admin/breakers")
    asked = {"limit": _CHANGES, "cursor": view.query.get("cursor")}
    history = await view.api.get("/admin/breakers/history", **asked)
    models = await view.api.maybe("/admin/models")
    return view.page(
        "hosts.html",
        hosts=known["hosts"],
        slots=known["slots"],
        changes=history["changes"],
        cursor=history["cursor"],
        models=models,
        live="poll",
    )


async def _activity_chart(view: View, name: str, *, dark: bool, small: bool) -> Response:
    found = await view.api.maybe("/overview/activity")
    hours = found["hours"] if found else []
    labels = [hour["at"][11:16] for hour in hours]
    match name:
        case "chats.svg":
            return bars(
                labels, {"chats": [hour["chats"] for hour in hours]}, dark=dark, small=small
            )
        case "limits.svg":
            series = {text: [hour[name] for hour in hours] for name, text in _LIMITS.items()}
            tones = ("warn", "plain", "soft", "bad")
            return bars(labels, series, dark=dark, small=small, tones=tones)
        case _:
            shares = {"half within": "first_half_s", "95 of 100 within": "first_most_s"}
            series = {
                text: [1000 * (hour[share] or 0) for hour in hours]
                for text, share in shares.items()
            }
            colours = ("plain", "soft")
            return bars(
                labels, series, dark=dark, small=small, stacked=False, tones=colours, unit=" ms"
            )


async def chart(view: View) -> Response:
    """A chart as an image."""
    dark, small = view.query.get("dark") == "1", view.query.get("small") == "1"
    match view.request.path_params["name"]:
        case "runs.svg":
            found = await view.api.get("/overview/throughput")
            labels = [hour["at"][11:16] for hour in found["hours"]]
            series = {
                name: [hour[name] for hour in found["hours"]] for name in ("completed", "failed")
            }
            return bars(labels, series, dark=dark, small=small, tones=("good", "bad"))
        case "chats.svg" | "first-token.svg" | "limits.svg" as name:
            return await _activity_chart(view, name, dark=dark, small=small)
        case "tokens.svg" | "requests.svg" as name:
            field = "total_tokens" if name == "tokens.svg" else "requests"
            asked = {key: view.query.get(key) for key in ("client", "from", "to")}
            used = await view.api.maybe("/usage", **asked, group_by="day")
            found = {row["day"]: row[field] for row in used["rows"]} if used else {}
            days = _days(found, until=None if asked["to"] else view.clock.now())
            values = {field.replace("_", " "): [found.get(day, 0) for day in days]}
            return bars([day[5:] for day in days], values, dark=dark, small=small)
        case _:
            raise NotFound("There is no such chart.")


def _days(found: Iterable[str], *, until: datetime | None) -> list[str]:
    """The last days that there is something of; to the present one, two weeks with it."""
    days = set(found)
    if until is not None:
        days |= {(until - timedelta(days=ago)).date().isoformat() for ago in range(14)}
    return sorted(days)[-31:]
