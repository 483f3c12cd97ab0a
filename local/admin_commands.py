"""What the admin command line knows: each of its commands with the route that it asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Command:
    """`words` are a noun and a verb; `path` is written as in the OpenAPI document.

    The path's parameters stand behind the noun, those that only this verb has behind the verb.
    """

    words: str
    method: str
    path: str
    about: str
    rows: str = ""  # where the rows of a list stand in the answer; "." for a list of bare values
    columns: Sequence[str] = ()
    sent: Mapping[str, Any] = field(default_factory=dict)  # in the body, where nothing else is said
    media_type: str = "application/json"

    @property
    def noun(self) -> str:
        return self.words.partition(" ")[0]

    @property
    def verb(self) -> str:
        return self.words.partition(" ")[2]

    @property
    def parameters(self) -> list[str]:
        return [one[1:-1] for one in self.path.split("/") if one.startswith("{")]


_HOURS: Final = ("at", "chats", "tokens", "first_mean_s", "over_limit", "no_slot", "breaker_open")
_STEPS: Final = ("key", "kind", "status", "attempts", "started_at", "finished_at")
_DELIVERIES: Final = ("id", "type", "status", "attempts", "next_at", "reason")
_EVENTS: Final = ("key", "event.type", "status", "client", "received_at", "problem")
_CHANGES: Final = ("at", "host", "was", "state", "failures", "by_hand")
_VIA_CLI: Final = {"specversion": "1.0", "source": "/admin"}
_CLOUD_EVENT: Final = "application/cloudevents+json"

COMMANDS: Final = (
    Command("overview", "GET", "/overview", "what goes on, what is late, what was given up"),
    Command("overview throughput", "GET", "/overview/throughput", "ended runs by the hour",
            "hours", ("at", "completed", "failed")),
    Command("overview activity", "GET", "/overview/activity", "chats and refusals by the hour",
            "hours", _HOURS),
    Command("health", "GET", "/health/ready", "whether each service answers"),
    Command("health live", "GET", "/health/live", "whether the gateway does"),
    Command("agents", "GET", "/overview/agents", "list agents", "agents",
            ("name", "model", "durable", "version", "description")),
    Command("workflows", "GET", "/workflows", "list workflows", "workflows",
            ("name", "version", "on", "description")),
    Command("workflows counts", "GET", "/overview/workflows", "how many runs of each",
            "workflows", ("name", "going_on.count", "failed.count")),
    Command("workflow", "GET", "/overview/workflows/{name}", "how many runs of each version",
            "versions", ("version", "deployed", "runs")),

    Command("runs", "GET", "/runs", "list runs", "runs",
            ("id", "workflow", "status", "client", "created_at", "finished_at")),
    Command("runs counts", "GET", "/runs/counts", "how many in each state: workflow=…"),
    Command("runs start", "POST", "/runs", "start one: workflow=news.digest input={…}"),
    Command("runs cancel", "POST", "/runs/cancel", "cancel all that fit: workflow=…"),
    Command("runs retry", "POST", "/runs/retry", "retry all that failed and fit"),
    Command("run", "GET", "/runs/{run_id}", "show a run with its steps"),
    Command("run steps", "GET", "/runs/{run_id}/steps", "list its steps", "steps", _STEPS),
    Command("run history", "GET", "/runs/{run_id}/history", "which invocations had it",
            "slices", ("started_at", "ended_at", "end", "epoch", "invocation")),
    Command("run cancel", "POST", "/runs/{run_id}/cancel", "undo it and end it"),
    Command("run pause", "POST", "/runs/{run_id}/pause", "begin nothing new of it"),
    Command("run resume", "POST", "/runs/{run_id}/resume", "go on: budget=…"),
    Command("run retry", "POST", "/runs/{run_id}/retry", "go on from the step that failed"),
    Command("run restart", "POST", "/runs/{run_id}/restart", "run again: step=…"),
    Command("run approvals", "GET", "/runs/{run_id}/approvals", "what it waits to be allowed",
            "approvals", ("call", "tool", "arguments", "until")),
    Command("run decide", "POST", "/runs/{run_id}/approvals/{call_id}",
            "let an agent call its tool, or not: approve=true note=…"),
    Command("run delete", "DELETE", "/runs/{run_id}", "forget it"),

    Command("events", "GET", "/events", "list events", "events", _EVENTS),
    Command("events publish", "POST", "/events", "publish one: type=order.placed data={…}",
            "events", ("key", "id", "source", "duplicate"), _VIA_CLI, _CLOUD_EVENT),
    Command("event", "GET", "/events/{key}", "show an event"),
    Command("event replay", "POST", "/events/{key}/replay", "deliver it once more"),

    Command("schedules", "GET", "/schedules", "list schedules", "schedules",
            ("id", "name", "cron", "workflow", "status", "next_at")),
    Command("schedules create", "POST", "/schedules", "make one: name=… cron='0 7 * * *' …"),
    Command("schedules preview", "GET", "/schedules/preview", "when cron='0 7 * * *' ticks",
            "ticks", (".",)),
    Command("schedule", "GET", "/schedules/{schedule_id}", "show a schedule"),
    Command("schedule runs", "GET", "/schedules/{schedule_id}/runs", "the latest it started",
            "runs", ("id", "version", "status", "created_at", "finished_at")),
    Command("schedule change", "PUT", "/schedules/{schedule_id}", "another plan: cron=… …"),
    Command("schedule pause", "POST", "/schedules/{schedule_id}/pause", "no ticks"),
    Command("schedule resume", "POST", "/schedules/{schedule_id}/resume", "ticks again"),
    Command("schedule delete", "DELETE", "/schedules/{schedule_id}", "delete it"),

    Command("webhooks", "GET", "/webhooks", "list webhooks", "webhooks",
            ("id", "url", "types", "status")),
    Command("webhooks create", "POST", "/webhooks", "make one: url=… types='[\"order.*\"]'"),
    Command("webhook", "GET", "/webhooks/{webhook_id}", "show a webhook"),
    Command("webhook change", "PATCH", "/webhooks/{webhook_id}", "change it: status=off"),
    Command("webhook rotate", "POST", "/webhooks/{webhook_id}/rotate", "give it a new secret"),
    Command("webhook delete", "DELETE", "/webhooks/{webhook_id}", "delete it"),
    Command("webhook deliveries", "GET", "/webhooks/{webhook_id}/deliveries",
            "list its deliveries: status=dead", "deliveries", _DELIVERIES),
    Command("delivery replay", "POST", "/webhooks/deliveries/{delivery_id}/replay", "send again"),

    Command("callback complete", "POST", "/callbacks/{token}", "answer a run: value=…"),
    Command("callback fail", "POST", "/callbacks/{token}/fail", "answer with: message=…"),
    Command("callback heartbeat", "POST", "/callbacks/{token}/heartbeat", "keep it open"),

    Command("conversations", "GET", "/conversations", "list the client's own", "conversations",
            ("id", "title", "updated_at", "answering")),
    Command("conversations create", "POST", "/conversations", "make one: title=… messages=[…]"),
    Command("conversation", "GET", "/conversations/{id}", "what was said", "messages",
            ("id", "role", "content")),
    Command("conversation append", "POST", "/conversations/{id}/messages", "add: messages=[…]",
            "messages", ("id", "role", "content")),
    Command("conversation fork", "POST", "/conversations/{id}/fork", "another one: at=2.1"),
    Command("conversation rename", "PATCH", "/conversations/{id}", "title=…"),
    Command("conversation export", "GET", "/conversations/{id}/export", "format=markdown"),
    Command("conversation delete", "DELETE", "/conversations/{id}", "forget it"),

    Command("hosts", "GET", "/admin/breakers", "list model hosts", "hosts",
            ("host", "state", "failures", "in_flight")),
    Command("hosts history", "GET", "/admin/breakers/history", "what breakers went through",
            "changes", _CHANGES),
    Command("host trip", "POST", "/admin/breakers/{host}/trip", "open its breaker: open_s=60"),
    Command("host reset", "POST", "/admin/breakers/{host}/reset", "close its breaker"),
    Command("models", "GET", "/admin/models", "what each host holds", "hosts",
            ("host", "error", "models")),
    Command("models pull", "POST", "/admin/models/pull", "fetch one, as a run: model=…"),
    Command("models load", "POST", "/admin/models/load", "into memory: model=… keep_alive=5m"),
    Command("models unload", "POST", "/admin/models/unload", "out of memory: model=…"),
    Command("model", "GET", "/admin/models/{model}", "show a model"),
    Command("model delete", "DELETE", "/admin/models/{model}", "delete it from disk"),

    Command("keys", "GET", "/keys", "list keys", "keys",
            ("id", "name", "client", "scopes", "limit", "last_used_at")),
    Command("keys create", "POST", "/keys", "make one: name=… client=… scopes='[\"chat\"]'"),
    Command("key", "GET", "/keys/{key_id}", "show a key"),
    Command("key change", "PATCH", "/keys/{key_id}", "change it: limit=10 expires_at=null"),
    Command("key rotate", "POST", "/keys/{key_id}/rotate", "give it a new secret: grace_s=60"),
    Command("key revoke", "DELETE", "/keys/{key_id}", "revoke it for good"),
    Command("key sign-out", "DELETE", "/sessions/{key_id}", "end its sessions on the pages"),
    Command("usage", "GET", "/usage", "what was used: group_by=day,model format=csv", "rows",
            ("day", "client", "model", "requests", "total_tokens", "cost")),
    Command("budgets", "GET", "/budgets", "list budgets", "budgets",
            ("kind", "owner", "period", "unit", "soft", "hard", "used")),
    Command("budget set", "PUT", "/budgets/{kind}/{owner}", "client acme set budgets=[…]",
            "budgets", ("kind", "owner", "period", "unit", "soft", "hard", "used")),
    Command("budget delete", "DELETE", "/budgets/{kind}/{owner}", "take its budgets away"),
    Command("audit", "GET", "/audit", "who changed what", "entries",
            ("at", "key_name", "action", "target", "via", "outcome")),
)  # fmt: skip


def commands_of(noun: str) -> list[Command]:
    return [one for one in COMMANDS if one.noun == noun]


def ids_of(noun: str) -> list[str]:
    """What is named behind the noun, before any verb."""
    return min((one.parameters for one in commands_of(noun)), key=len)
