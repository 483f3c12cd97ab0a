"""A small command line over the admin API: `python -m local admin runs status=failed`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

_READY: Final = Path(__file__).resolve().parent.parent / ".lambent" / "data" / "ready.json"
_TONES: Final = {
    "completed": "green", "delivered": "green", "active": "green", "closed": "green",
    "failed": "red", "dead": "red", "open": "red", "revoked": "red",
    "blocked": "yellow", "paused": "yellow", "running": "blue", "pending": "blue",
}  # fmt: skip

# What a list shows: the resource, where its rows stand in the answer, its columns.
_LISTS: Final[Mapping[str, tuple[str, str, Sequence[str]]]] = {
    "runs": ("/runs", "runs", ("id", "workflow", "status", "client", "created_at", "finished_at")),
    "workflows": ("/workflows", "workflows", ("name", "version", "on", "description")),
    "events": ("/events", "events", ("key", "status", "client", "received_at", "problem")),
    "schedules": ("/schedules", "schedules", ("id", "name", "cron", "workflow", "status")),
    "webhooks": ("/webhooks", "webhooks", ("id", "url", "types", "status")),
    "keys": ("/keys", "keys", ("id", "name", "client", "scopes", "limit", "last_used_at")),
    "audit": ("/audit", "entries", ("at", "key_name", "action", "target", "via", "outcome")),
    "hosts": ("/admin/breakers", "hosts", ("host", "state", "failures", "in_flight")),
    "usage": ("/usage", "rows", ("day", "client", "model", "requests", "total_tokens", "cost")),
    "budgets": ("/budgets", "budgets", ("kind", "owner", "period", "unit", "soft", "hard", "used")),
}  # fmt: skip
_RUN_COMMANDS: Final = ("cancel", "pause", "resume", "retry", "restart", "delete")
_KEY_COMMANDS: Final = ("change", "rotate", "revoke", "sign-out")


def main() -> None:
    """Raises `SystemExit` with 1 and the API's own words where it refuses."""
    given = _parse(sys.argv[1:])
    url, key = _target(given)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        try:
            _show(given.call(client, given), given)
        except httpx.TransportError as error:
            sys.exit(f"{url} does not answer: {error}")


def _target(given: argparse.Namespace) -> tuple[str, str]:
    """By flag, by environment, or those of the running `./local/up`."""
    ready: dict[str, Any] = json.loads(_READY.read_text()) if _READY.exists() else {}
    url = given.url or os.environ.get("LAMBENT_URL") or ready.get("url")
    key = os.environ.get("LAMBENT_ADMIN_KEY") or ready.get("admin_key")
    if not url or not key:
        sys.exit("Start ./local/up, or set LAMBENT_URL and LAMBENT_ADMIN_KEY.")
    return str(url), str(key)


def _call(client: httpx.Client, method: str, path: str, **options: Any) -> Any:
    answer = client.request(method, path, **options)
    said = answer.json() if answer.content else None
    if answer.is_error:
        if not isinstance(said, dict):
            sys.exit(f"{answer.status_code}: {answer.text}")
        wrong = [f"{one['field']}: {one['message']}" for one in said.get("errors", ())]
        sys.exit("\n".join([f"{answer.status_code}: {said.get('detail')}", *wrong]))
    return said


def _list(client: httpx.Client, given: argparse.Namespace) -> Any:
    path, _, _ = _LISTS[given.what]
    pairs = [one.partition("=") for one in given.filters]
    query = {name: value for name, _, value in pairs}
    return _call(client, "GET", path, params={"limit": given.limit, **query})


def _run(client: httpx.Client, given: argparse.Namespace) -> Any:
    where = f"/runs/{given.id}"
    match given.command:
        case None:
            steps = _call(client, "GET", f"{where}/steps")["steps"]
            return {**_call(client, "GET", where), "steps": steps}
        case "delete":
            return _call(client, "DELETE", where)
        case "restart" if given.step:
            return _call(client, "POST", f"{where}/restart", json={"step": given.step})
        case command:
            return _call(client, "POST", f"{where}/{command}")


def _key(client: httpx.Client, given: argparse.Namespace) -> Any:
    where = f"/keys/{given.id}"
    match given.command:
        case None:
            return _call(client, "GET", where)
        case "change":
            return _call(client, "PATCH", where, json=_fields(given.fields))
        case "rotate":
            return _call(client, "POST", f"{where}/rotate", json=_fields(given.fields))
        case "revoke":
            return _call(client, "DELETE", where)
        case _:
            return _call(client, "DELETE", f"/sessions/{given.id}")


def _fields(pairs: Sequence[str]) -> dict[str, Any]:
    """Of `name=value`, where a value is JSON (10, null, […]) or else the text itself."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            sys.exit(f"{pair}: write it as name=value.")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields


def _call_any(client: httpx.Client, given: argparse.Namespace) -> Any:
    body = None if given.body is None else json.loads(given.body)
    return _call(client, given.method.upper(), given.path, json=body)


def _overview(client: httpx.Client, _: argparse.Namespace) -> Any:
    return _call(client, "GET", "/overview")


def _show(said: Any, given: argparse.Namespace) -> None:
    console = Console()
    name = given.what if given.what in _LISTS else ""
    if given.json or not name:
        console.print_json(json.dumps(said))
        return
    _, rows, columns = _LISTS[name]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in said[rows]:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console.print(table)
    if said.get("cursor"):
        console.print(Text(f"more: cursor={said['cursor']}", style="dim"))


def _cell(value: Any) -> Text:
    # Text, not markup: a name is whatever somebody chose.
    shown = ", ".join(map(str, value)) if isinstance(value, list) else value
    text = "" if shown is None else str(shown)
    return Text(text, style=_TONES.get(text, ""))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local admin", description=__doc__)
    parser.add_argument("--url", help="of the gateway (default: $LAMBENT_URL, or ./local/up's)")
    parser.add_argument("--json", action="store_true", help="the API's answer as it is")
    commands = parser.add_subparsers(dest="what", required=True)
    _command(commands, "overview", _overview, "counts of runs, and what is due")
    for name in _LISTS:
        one = _command(commands, name, _list, f"list {name}")
        one.add_argument("filters", nargs="*", metavar="name=value", help="filters of the API")
        one.add_argument("--limit", type=int, default=50)
    run = _command(commands, "run", _run, "show a run, or steer it")
    run.add_argument("id")
    run.add_argument("command", nargs="?", choices=_RUN_COMMANDS)
    run.add_argument("--step", help="restart from this step's key")
    key = _command(commands, "key", _key, "show a key, or change it: key ID change limit=10")
    key.add_argument("id")
    key.add_argument("command", nargs="?", choices=_KEY_COMMANDS)
    key.add_argument("fields", nargs="*", metavar="name=value", help="limit=10, expires_at=null")
    anything = _command(commands, "call", _call_any, "call any route: call POST /keys '{…}'")
    anything.add_argument("method")
    anything.add_argument("path")
    anything.add_argument("body", nargs="?", help="JSON")
    return parser.parse_args(arguments)


def _command(
    commands: Any, name: str, call: Callable[[httpx.Client, argparse.Namespace], Any], about: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=about)
    made.set_defaults(call=call)
    # Also behind the command, where people write it.
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    main()
