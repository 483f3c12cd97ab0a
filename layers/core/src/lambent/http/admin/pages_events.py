"""Pages of events, schedules and webhooks."""

from __future__ import annotations

import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

from starlette.responses import Response

from lambent.http.admin.api import path
from lambent.http.admin.formats import on_the_clock
from lambent.http.admin.view import View

_SHOWN = 50
_TICKS = 5


async def events(view: View) -> Response:
    """What was published, the newest first, and a form to publish more."""
    names = ("type", "subject", "source", "status", "cursor")
    asked = {name: view.query.get(name) for name in names}
    page = await view.api.get("/events", **asked, limit=_SHOWN)
    return view.page("events.html", events=page["events"], cursor=page["cursor"], live="")


async def event(view: View) -> Response:
    """One event and where it stands."""
    found = await view.api.get(path("events", view.request.path_params["key"]))
    return view.page("event.html", event=found)


async def schedules(view: View) -> Response:
    """What ticks when, and a form for another one."""
    page = await view.api.get("/schedules", cursor=view.query.get("cursor"), limit=_SHOWN)
    deployed = (await view.api.get("/workflows"))["workflows"]
    preview = None
    if cron := view.query.get("cron"):
        zone = view.query.get("timezone") or "UTC"
        preview = await view.api.call(
            "GET", "/schedules/preview", query={"cron": cron, "timezone": zone}
        )
    return view.page(
        "schedules.html",
        schedules=page["schedules"],
        cursor=page["cursor"],
        names=sorted({one["name"] for one in deployed if not one["internal"]}),
        preview=preview,
    )


async def schedule(view: View) -> Response:
    """One schedule: when it ticks next, there and here, what it starts, and what it has started."""
    schedule_id = view.request.path_params["schedule"]
    found = await view.api.get(path("schedules", schedule_id))
    asked = {"cron": found["cron"], "timezone": found["timezone"], "count": _TICKS}
    started, preview = await asyncio.gather(
        view.api.get(path("schedules", schedule_id, "runs")),
        view.api.get("/schedules/preview", **asked),
    )
    zone = ZoneInfo(found["timezone"])
    ticks = [datetime.fromisoformat(one) for one in preview["ticks"]]
    return view.page(
        "schedule.html",
        schedule=found,
        runs=started["runs"],
        ticks=[(one.isoformat(), on_the_clock(one.astimezone(zone))) for one in ticks],
    )


async def webhooks(view: View) -> Response:
    """Who is told of what."""
    page = await view.api.get("/webhooks", cursor=view.query.get("cursor"), limit=_SHOWN)
    return view.page("webhooks.html", webhooks=page["webhooks"], cursor=page["cursor"])


async def webhook(view: View) -> Response:
    """One webhook and its deliveries; dead letters can be sent again."""
    webhook_id = view.request.path_params["webhook"]
    found = await view.api.get(path("webhooks", webhook_id))
    page = await view.api.get(
        path("webhooks", webhook_id, "deliveries"),
        status=view.query.get("status"),
        cursor=view.query.get("cursor"),
        limit=_SHOWN,
    )
    return view.page(
        "webhook.html", webhook=found, deliveries=page["deliveries"], cursor=page["cursor"]
    )
