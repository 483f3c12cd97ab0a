"""The overview, the model servers, the playground, and charts for them."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from lambent.admission.decisions import Scope
from lambent.errors import NotFound
from lambent.http.admin.charts import bars
from lambent.http.admin.formats import span
from lambent.http.admin.view import View


async def overview(view: View) -> Response:
    """What runs, what waits and what needs attention now; each is a link to what it counts."""
    found = await view.api.get("/overview")
    ready = await view.api.call("GET", "/health/ready")
    services = ready.data.get("services", {}) if isinstance(ready.data, dict) else {}
    hosts = (await view.api.get("/admin/breakers"))["hosts"]
    failures = (await view.api.get("/runs", status="failed", limit=5))["runs"]
    return view.page(
        "overview.html",
        overview=found,
        services=services,
        hosts=hosts,
        failures=failures,
        attention=_attention(found, services, hosts),
        live="poll",
    )


def _attention(
    found: dict[str, Any], services: dict[str, Any], hosts: list[dict[str, Any]]
) -> list[tuple[str, str, str]]:
    """What to look at: tone, sentence, link."""
    said: list[tuple[str, str, str]] = []
    for name, check in services.items():
        if check["status"] != "ok":
            said.append(("bad", f"{name} does not answer: {check['detail']}", "/admin"))
    for host in hosts:
        if host["state"] != "closed":
            state = host["state"].replace("_", " ")
            said.append(("bad", f"The breaker of {host['host']} is {state}.", "/admin/hosts"))
    blocked = found["runs"]["blocked"]
    if blocked["count"]:
        link = "/admin/runs?status=blocked"
        said.append(("warn", f"Blocked runs: {_some(blocked)}.", link))
    if found["due_lag_s"] > 60:
        late = span(found["due_lag_s"])
        said.append(("warn", f"A run has been due for {late}.", "/admin/runs?status=waiting"))
    failed = found["runs"]["failed"]
    if failed["count"]:
        link = "/admin/runs?status=failed"
        said.append(("", f"Failed runs of the last day: {_some(failed)}.", link))
    return said


def _some(counted: dict[str, Any]) -> str:
    return f"{counted['count']:,}{'+' if counted['more'] else ''}"


async def hosts(view: View) -> Response:
    """The model servers: breaker with its history, slots, queue; trip and reset by hand."""
    found = await view.api.get("/overview")
    known = (await view.api.get("/admin/breakers"))["hosts"]
    changes = (await view.api.get("/admin/breakers/history", limit=20))["changes"]
    models = await view.api.maybe("/admin/models")
    return view.page(
        "hosts.html", hosts=known, slots=found["slots"], changes=changes, models=models, live="poll"
    )


async def playground(view: View) -> Response:
    """A chat with any agent or model; the page's script talks to the chat function."""
    can_chat = view.session.may_change and view.session.principal.may(Scope.CHAT)
    return view.page("playground.html", agent=view.query.get("agent", "chat"), can_chat=can_chat)


async def chart(view: View) -> Response:
    """A chart as an image."""
    dark = view.query.get("dark") == "1"
    match view.request.path_params["name"]:
        case "runs.svg":
            found = await view.api.get("/overview/throughput")
            labels = [hour["at"][11:16] for hour in found["hours"]]
            series = {
                name: [hour[name] for hour in found["hours"]] for name in ("completed", "failed")
            }
            return bars(labels, series, dark=dark)
        case "tokens.svg" | "requests.svg" as name:
            field = "total_tokens" if name == "tokens.svg" else "requests"
            asked = {key: view.query.get(key) for key in ("client", "from", "to")}
            used = await view.api.maybe("/usage", **asked, group_by="day")
            days = sorted(used["rows"], key=lambda row: row["day"])[-31:] if used else []
            values = {field.replace("_", " "): [row[field] for row in days]}
            return bars([row["day"][5:] for row in days], values, dark=dark)
        case _:
            raise NotFound("There is no such chart.")
