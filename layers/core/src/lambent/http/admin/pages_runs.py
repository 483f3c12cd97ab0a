"""Pages of runs and of the workflows that they are of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from lambent.engine.listing import STATUSES_ASKED, page_digest, state_of
from lambent.engine.model import ENDED, GOING_ON, Kind, Status
from lambent.http.admin.api import path
from lambent.http.admin.formats import utc_of, with_query
from lambent.http.admin.start_form import fields_of
from lambent.http.admin.timeline import timeline
from lambent.http.admin.view import View

_FILTERS: Final = (
    "status",
    "workflow",
    "version",
    "client",
    "parent",
    "created_from",
    "created_to",
)
_SHOWN: Final = 50
_STEPS: Final = 50
_LINES: Final = 100
_CHILDREN: Final = 10


async def runs(view: View) -> Response:
    """The list; everything it shows is in its address."""
    query = view.query
    if wanted := query.get("id", "").strip():
        return RedirectResponse(f"/admin/runs/{wanted.upper()}", status_code=303)
    asked = {name: utc_of(query[name]) for name in _FILTERS if query.get(name)}
    watched = {**asked, "cursor": query.get("cursor"), "limit": _SHOWN}
    page, counted, deployed = await asyncio.gather(
        view.api.get("/runs", **watched),
        view.api.get("/runs/counts", **{k: v for k, v in asked.items() if k != "status"}),
        view.api.get("/workflows"),
    )
    return view.page(
        "runs.html",
        runs=page["runs"],
        cursor=page["cursor"],
        statuses=STATUSES_ASKED,
        names=sorted({one["name"] for one in deployed["workflows"]}),
        filtered=bool(asked),
        bulk=bool(asked) and not set(asked) & {"client", "parent"},
        counts=counted["counts"],
        rows=page_digest(state_of(one["id"], one) for one in page["runs"]),
        live=f"runs?{with_query(watched)}",
    )


async def bulk(view: View) -> Response:
    """What a cancel or retry of all runs that fit would reach; nothing is done yet."""
    query = view.query
    command = "cancel" if query.get("command") == "cancel" else "retry"
    allowed = list(GOING_ON) if command == "cancel" else [Status.FAILED]
    names = ("workflow", "version", "created_from", "created_to")
    asked = {name: utc_of(query[name]) for name in names if query.get(name)}
    status = query.get("status")
    found: list[dict[str, Any]] = []
    more = False
    for one in allowed:
        if status in (None, "", one.value) or (status == "going_on" and one in GOING_ON):
            page = await view.api.get("/runs", **asked, status=one.value, limit=_SHOWN)
            found += page["runs"]
            more = more or page["cursor"] is not None
    if status:
        asked["status"] = status
    return view.page(
        "bulk.html", command=command, asked=asked, runs=found[:_SHOWN], count=len(found), more=more
    )


async def run(view: View) -> Response:
    """One run: where it stands, what it did and when, and what can be done about it."""
    run_id = view.request.path_params["run"]
    found = await view.api.get(path("runs", run_id))
    page = await _steps(view, run_id)
    history = await view.api.get(path("runs", run_id, "history"))
    # Its children stand among its steps: to look for them costs as much as it has steps.
    all_here = page["total"] <= len(page["steps"])
    parent = all_here and any(step["child"] for step in page["steps"])
    children = await view.api.get("/runs", parent=run_id, limit=_CHILDREN) if parent else None
    status = found["status"]
    return view.page(
        "run.html",
        run=found,
        approvals=await _approvals(view, found),
        page=page,
        timeline=timeline(found, page, history, now=view.clock.now()),
        lines=_lines(page, history),
        # Together the outputs of a page's steps stay light; one step's page has more of it.
        most=8_000 if len(page["steps"]) == 1 else max(300, 24_000 // (len(page["steps"]) or 1)),
        children=children["runs"] if children else [],
        commands=_commands(status),
        live="" if status in _ENDED else f"run:{run_id}",
    )


async def _approvals(view: View, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The calls that a person has to decide on, by the step that waits for it."""
    if not any(wait["kind"] == Kind.CALLBACK for wait in run["waits"]):
        return {}
    answer = await view.api.maybe(path("runs", run["id"], "approvals"))
    return {one["step"]: one for one in answer["approvals"]} if answer else {}


async def _steps(view: View, run_id: str) -> dict[str, Any]:
    """A page of its steps: the one that is asked for, else the newest."""
    query = view.query
    asked: dict[str, Any] = {"limit": _STEPS}
    if query.get("step"):
        asked["around"] = query["step"]
    elif query.get("before"):
        asked["before"] = query["before"]
    elif query.get("cursor"):
        asked["cursor"] = query["cursor"]
    elif query.get("from") != "start":
        asked["newest"] = "true"
    found: dict[str, Any] = await view.api.get(path("runs", run_id, "steps"), **asked)
    return found


def _lines(page: Mapping[str, Any], history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the code said, up to these steps; after the last of them, what it said at its end."""
    lines = [line for step in page["steps"] for line in step["log"]]
    if page["cursor"] is None:
        lines += history["log"]
    return sorted(lines, key=lambda line: str(line["at"]))[-_LINES:]


_ENDED: Final = frozenset(status.value for status in ENDED)


def _commands(status: str) -> frozenset[str]:
    match Status(status):
        case Status.PENDING | Status.RUNNING | Status.WAITING:
            return frozenset({"cancel", "pause"})
        case Status.PAUSED | Status.BLOCKED:
            return frozenset({"cancel", "resume", "restart"})
        case Status.FAILED | Status.CANCELLED:
            return frozenset({"retry", "restart", "delete"})
        case Status.COMPLETED:
            return frozenset({"restart", "delete"})


async def workflows(view: View) -> Response:
    """What is deployed: agents, and workflows by name, with their versions and their runs."""
    found = (await view.api.get("/workflows"))["workflows"]
    agents, runs = await asyncio.gather(
        view.api.maybe("/overview/agents"), view.api.maybe("/overview/workflows")
    )
    named: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(found, key=lambda one: (one["name"], -one["version"])):
        named.setdefault(one["name"], []).append(one)
    written = {name: one for name, one in named.items() if not one[0]["internal"]}
    return view.page(
        "workflows.html",
        workflows=[
            ("Workflows", written),
            ("The platform's own", {name: named[name] for name in named.keys() - written.keys()}),
        ],
        agents=agents["agents"] if agents else [],
        runs={one["name"]: one for one in runs["workflows"]} if runs else {},
    )


async def workflow(view: View) -> Response:
    """One workflow, with a form that starts it."""
    name = view.request.path_params["name"]
    found = (await view.api.get("/workflows"))["workflows"]
    versions = sorted(
        (one for one in found if one["name"] == name), key=lambda one: -one["version"]
    )
    recent = (await view.api.get("/runs", workflow=name, limit=10))["runs"]
    counted = await view.api.maybe(path("overview", "workflows", name))
    schema = versions[0].get("input_schema") if versions else None
    return view.page(
        "workflow.html",
        name=name,
        versions=versions,
        fields=fields_of(schema),
        schema=schema,
        recent=recent,
        counted=counted["versions"] if counted else [],
        internal=bool(versions) and versions[0]["internal"],
    )
