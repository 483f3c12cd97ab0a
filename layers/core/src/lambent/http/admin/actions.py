"""What the forms of the pages do: each is one call of the API, as the person who is signed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import Response

from lambent.errors import Unprocessable
from lambent.http.admin.api import Answer, Failed, path
from lambent.http.admin.formats import with_query
from lambent.http.admin.session import own_path
from lambent.http.admin.start_form import input_of, parse_json, wrong
from lambent.http.admin.view import View, done

Form = dict[str, str]
# What a key's page asks for: what a budget may be of, and its two edges.
BUDGETS: Final = (("day", "tokens"), ("month", "tokens"), ("day", "money"), ("month", "money"))
EDGES: Final = ("soft", "hard")

Act = Callable[[View, Form], Awaitable[Response]]


async def _ask(view: View, method: str, where: str, body: Any = None) -> Any:
    answer: Answer = await view.api.call(method, where, body=body)
    if not answer.good:
        raise Failed(answer)
    return answer.data


def _run_command(command: str) -> Act:
    async def act(view: View, form: Form) -> Response:
        run = form.get("run", "")
        body: dict[str, Any] | None = None
        if command == "resume" and form.get("budget"):
            body = {"budget": _number(form["budget"], "budget")}
        if command == "restart" and form.get("step"):
            body = {"step": form["step"]}
        await _ask(view, "POST", path("runs", run, command), body)
        return done(f"/admin/runs/{run}", command)

    return act


async def _delete_run(view: View, form: Form) -> Response:
    await _ask(view, "DELETE", path("runs", form.get("run", "")))
    return done("/admin/runs", "delete")


async def _bulk(view: View, form: Form) -> Response:
    command = "cancel" if form.get("command") == "cancel" else "retry"
    names = ("status", "workflow", "created_from", "created_to")
    body: dict[str, Any] = {name: form[name] for name in names if form.get(name)}
    if form.get("version"):
        body["version"] = _number(form["version"], "version")
    said = await _ask(view, "POST", path("runs", command), body)
    asked = with_query(body, n=str(said["count"]))
    return done(f"/admin/runs?{asked}", f"bulk-{command}")


async def _start_run(view: View, form: Form) -> Response:
    body: dict[str, Any] = {"workflow": form.get("workflow", ""), "input": input_of(form)}
    if form.get("key"):
        body["key"] = form["key"]
    for name in ("version", "priority", "budget"):
        if form.get(name):
            body[name] = _number(form[name], name)
    run = await _ask(view, "POST", "/runs", body)
    return done(f"/admin/runs/{run['id']}", "start")


async def _decide_call(view: View, form: Form) -> Response:
    """A person's word on a tool call that an agent's run waits with."""
    run, decision = form.get("run", ""), form.get("decision")
    if decision not in ("approve", "decline"):
        raise Unprocessable("Not valid: decision.")
    body = {"approve": decision == "approve", "note": form.get("note", "")}
    await _ask(view, "POST", path("runs", run, "approvals", form.get("call", "")), body)
    return done(own_path(form.get("next") or f"/admin/runs/{run}"), f"call-{decision}")


async def _delete_conversation(view: View, form: Form) -> Response:
    await _ask(view, "DELETE", path("conversations", form.get("conversation", "")))
    return done("/admin/playground", "conversation")


async def _publish_event(view: View, form: Form) -> Response:
    event = {
        "specversion": "1.0",
        "id": form.get("id") or view.request.scope["lambent.request_id"],
        "source": form.get("source") or "/admin",
        "type": form.get("type", ""),
        "data": parse_json(form.get("data", ""), "data"),
    }
    if form.get("subject"):
        event["subject"] = form["subject"]
    said = await _ask(view, "POST", "/events", event)
    target = form.get("next") or f"/admin/events/{said['events'][0]['key']}"
    return done(own_path(target), "event")


async def _replay_event(view: View, form: Form) -> Response:
    await _ask(view, "POST", path("events", form.get("key", ""), "replay"))
    return done(f"/admin/events/{form.get('key', '')}", "replay")


async def _create_schedule(view: View, form: Form) -> Response:
    body: dict[str, Any] = {
        "name": form.get("name", ""),
        "cron": form.get("cron", ""),
        "timezone": form.get("timezone") or "UTC",
        "workflow": form.get("workflow", ""),
        "input": parse_json(form.get("input", ""), "input"),
        "catch_up": form.get("catch_up") or "last",
    }
    await _ask(view, "POST", "/schedules", body)
    return done("/admin/schedules", "schedule")


async def _change_schedule(view: View, form: Form) -> Response:
    schedule = form.get("schedule", "")
    match form.get("command"):
        case "delete":
            await _ask(view, "DELETE", path("schedules", schedule))
        case "pause" | "resume" as command:
            await _ask(view, "POST", path("schedules", schedule, command))
            return done(own_path(form.get("next") or "/admin/schedules"), "schedule-changed")
        case _:
            raise Unprocessable("Not valid: command.")
    return done("/admin/schedules", "schedule-changed")


async def _create_webhook(view: View, form: Form) -> Response:
    body = {
        "url": form.get("url", ""),
        "types": form.get("types", "").split(),
        "description": form.get("description", ""),
    }
    made = await _ask(view, "POST", "/webhooks", body)
    title = "The webhook's signing secret"
    return _secret(view, title, made["secret"], back="/admin/webhooks", kept=True)


async def _change_webhook(view: View, form: Form) -> Response:
    webhook = form.get("webhook", "")
    match form.get("command"):
        case "delete":
            await _ask(view, "DELETE", path("webhooks", webhook))
        case "rotate":
            said = await _ask(view, "POST", path("webhooks", webhook, "rotate"))
            title = "The webhook's new signing secret"
            return _secret(view, title, said["secret"], back="/admin/webhooks", kept=True)
        case "disable" | "enable" as command:
            status = "active" if command == "enable" else "disabled"
            await _ask(view, "PATCH", path("webhooks", webhook), {"status": status})
            return done(own_path(form.get("next") or "/admin/webhooks"), "webhook-changed")
        case _:
            raise Unprocessable("Not valid: command.")
    return done("/admin/webhooks", "webhook-changed")


async def _replay_delivery(view: View, form: Form) -> Response:
    await _ask(view, "POST", path("webhooks", "deliveries", form.get("delivery", ""), "replay"))
    return done(f"/admin/webhooks/{form.get('webhook', '')}", "replay")


async def _create_key(view: View, form: Form) -> Response:
    body: dict[str, Any] = {
        "name": form.get("name", ""),
        "client": form.get("client", ""),
        "scopes": form.get("scopes", "").split("\n") if form.get("scopes") else [],
    }
    if form.get("limit"):
        body["limit"] = _number(form["limit"], "limit")
    if form.get("expires_on"):
        body["expires_at"] = _last_instant(form["expires_on"])
    made = await _ask(view, "POST", "/keys", body)
    return _secret(view, f"The key “{made['name']}”", made["key"], back="/admin/keys")


async def _change_key(view: View, form: Form) -> Response:
    key = form.get("key", "")
    match form.get("command"):
        case "rotate":
            grace_s = 3600 * _number(form.get("grace_h") or "0", "grace")
            made = await _ask(view, "POST", path("keys", key, "rotate"), {"grace_s": grace_s})
            title = f"The new secret of “{made['name']}”"
            return _secret(view, title, made["key"], back="/admin/keys")
        case "revoke":
            await _ask(view, "DELETE", path("keys", key))
            return done("/admin/keys", "key-revoked")
        case "sign-out":
            await _ask(view, "DELETE", path("sessions", key))
            return done("/admin/keys", "signed-out")
        case _:
            raise Unprocessable("Not valid: command.")


async def _limit_key(view: View, form: Form) -> Response:
    """Change of a key what differs from what its page had shown, and nothing that it had not."""
    changed = {name for name in form if form.get(f"was.{name}", form[name]) != form[name]}
    body: dict[str, Any] = {}
    if "name" in changed:
        body["name"] = form["name"]
    if "limit" in changed:
        body["limit"] = _number(form["limit"], "limit") if form["limit"] else None
    if "expires_on" in changed:
        body["expires_at"] = _last_instant(form["expires_on"]) if form["expires_on"] else None
    if any(name.startswith(EDGES) for name in changed):
        # All at once, as the API takes them: what is empty everywhere is none.
        body["budgets"] = [
            {"period": period, "unit": unit, **edges}
            for period, unit in BUDGETS
            if (edges := _edges(form, f".{period}.{unit}"))
        ]
    where = form.get("key", "")
    await _ask(view, "PATCH", path("keys", where), body)
    return done(f"/admin/keys/{where}", "key-changed")


def _edges(form: Form, place: str) -> dict[str, float]:
    sent = {edge: form.get(edge + place, "") for edge in EDGES}
    return {edge: _amount(text, edge + place) for edge, text in sent.items() if text}


def _last_instant(day: str) -> str:
    return f"{day}T23:59:59Z"  # good until then: that day is the last one


async def _set_breaker(view: View, form: Form) -> Response:
    command = "trip" if form.get("command") == "trip" else "reset"
    body = None
    if command == "trip" and form.get("open_s"):
        body = {"open_s": _number(form["open_s"], "open_s")}
    await _ask(view, "POST", f"/admin/breakers/{form.get('host', '')}/{command}", body)
    return done("/admin/hosts", "breaker")


async def _change_model(view: View, form: Form) -> Response:
    command = form.get("command", "")
    if command not in ("pull", "load", "unload"):
        raise Unprocessable("Not valid: command.")
    body = {"model": form.get("model", ""), "host": form.get("host") or None}
    said = await _ask(view, "POST", f"/admin/models/{command}", body)
    if command == "pull":  # a run of its own: its page follows the progress
        return done(f"/admin/runs/{said['run']}", "start")
    return done("/admin/hosts", "model")


async def _set_budget(view: View, form: Form) -> Response:
    kind, owner = form.get("kind", ""), form.get("owner", "")
    if kind not in ("client", "key"):
        raise Unprocessable("Not valid: kind.")
    edges = {name: _amount(form[name], name) for name in ("soft", "hard") if form.get(name)}
    new = {"period": form.get("period", ""), "unit": form.get("unit", ""), **edges}
    # The API sets all budgets of an owner at once: the others stay as they are.
    others = await _other_budgets(view, form)
    await _ask(view, "PUT", f"/budgets/{kind}/{owner}", {"budgets": [*others, new]})
    return done("/admin/usage", "budget")


async def _delete_budget(view: View, form: Form) -> Response:
    kind, owner = form.get("kind", ""), form.get("owner", "")
    if kind not in ("client", "key"):
        raise Unprocessable("Not valid: kind.")
    if others := await _other_budgets(view, form):
        await _ask(view, "PUT", f"/budgets/{kind}/{owner}", {"budgets": others})
    else:
        await _ask(view, "DELETE", f"/budgets/{kind}/{owner}")
    return done("/admin/usage", "budget")


async def _other_budgets(view: View, form: Form) -> list[dict[str, Any]]:
    """The owner's budgets but the one that the form is about."""
    place = tuple(form.get(name, "") for name in ("kind", "owner", "period", "unit"))
    found = (await _ask(view, "GET", "/budgets"))["budgets"]
    return [
        {name: one[name] for name in ("period", "unit", "soft", "hard")}
        for one in found
        if (one["kind"], one["owner"]) == place[:2] and (one["period"], one["unit"]) != place[2:]
    ]


def _secret(view: View, title: str, secret: str, *, back: str, kept: bool = False) -> Response:
    # The one answer that holds it: no redirect, no cookie, no store in between.
    return view.page("secret.html", title=title, secret=secret, back=back, kept=kept)


def _amount(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise wrong(field, "must be a number") from None


def _number(text: str, field: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise wrong(field, "must be a whole number") from None


ACTIONS: Final[Mapping[str, Act]] = {
    **{
        f"run-{name}": _run_command(name)
        for name in ("cancel", "pause", "resume", "retry", "restart")
    },
    "run-delete": _delete_run,
    "runs-bulk": _bulk,
    "run-start": _start_run,
    "call-decide": _decide_call,
    "conversation-delete": _delete_conversation,
    "event-publish": _publish_event,
    "event-replay": _replay_event,
    "schedule-create": _create_schedule,
    "schedule-change": _change_schedule,
    "webhook-create": _create_webhook,
    "webhook-change": _change_webhook,
    "delivery-replay": _replay_delivery,
    "key-create": _create_key,
    "key-change": _change_key,
    "key-limits": _limit_key,
    "breaker-set": _set_breaker,
    "model-change": _change_model,
    "budget-set": _set_budget,
    "budget-delete": _delete_budget,
}
