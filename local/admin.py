"""A small command line over the admin API: `python -m local admin runs status=failed`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
from rich.console import Console

from local.admin_commands import COMMANDS, Command, commands_of, ids_of
from local.admin_tables import fields_of, table_of

_READY: Final = Path(__file__).resolve().parent.parent / ".lambent" / "data" / "ready.json"
_ALSO_STEPS: Final = ("run", "/runs/{run_id}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that a command makes; a body of None is none."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None
    media_type: str = "application/json"


def main() -> None:
    """Raises `SystemExit` with 1 and the API's own words where it refuses."""
    given = _parse(sys.argv[1:])
    command, asked = asked_of(given)
    url, key = _target(given)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        try:
            said = _answer(client, asked)
            if command is not None and (command.words, command.path) == _ALSO_STEPS:
                steps = _answer(client, Asked("GET", f"{asked.path}/steps", {}))
                said = {**said, "steps": steps["steps"]}
            _show(said, command, as_json=given.json)
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


def _answer(client: httpx.Client, asked: Asked) -> Any:
    """JSON's value, or the text of any other answer."""
    sent = None if asked.body is None else json.dumps(asked.body).encode()
    headers = {} if sent is None else {"content-type": asked.media_type}
    answer = client.request(
        asked.method, asked.path, params=asked.query, content=sent, headers=headers
    )
    is_json = "json" in answer.headers.get("content-type", "")
    said = answer.json() if is_json and answer.content else answer.text or None
    # What is not ready says so in its answer, not in a problem document.
    if answer.is_error and not (isinstance(said, dict) and "services" in said):
        if not isinstance(said, dict):
            sys.exit(f"{answer.status_code}: {answer.text}")
        wrong = [f"{one['field']}: {one['message']}" for one in said.get("errors", ())]
        sys.exit("\n".join([f"{answer.status_code}: {said.get('detail')}", *wrong]))
    return said


def asked_of(given: argparse.Namespace) -> tuple[Command | None, Asked]:
    """The command that was typed, None for `call`, and what it asks.

    Raises `SystemExit` where the words are no command.
    """
    if given.noun == "call":
        return None, Asked(given.method.upper(), given.path, {}, _body(given.body))
    words, ids = list(given.words), ids_of(given.noun)
    if len(words) < len(ids):
        sys.exit(_usage(given.noun))
    named, rest = words[: len(ids)], words[len(ids) :]
    verbs = {one.verb: one for one in commands_of(given.noun)}
    verb = rest.pop(0) if rest and "=" not in rest[0] else ""
    command = verbs.get(verb)
    if command is None:
        sys.exit(_usage(given.noun))
    further = len(command.parameters) - len(ids)
    if len(rest) < further:
        sys.exit(_usage(given.noun))
    return command, _asked(command, [*named, *rest[:further]], rest[further:], given)


def _asked(
    command: Command, named: Sequence[str], pairs: Sequence[str], given: argparse.Namespace
) -> Asked:
    path = command.path
    for parameter, value in zip(command.parameters, named, strict=True):
        path = path.replace(f"{{{parameter}}}", quote(value, safe=""), 1)
    if command.method in ("GET", "DELETE"):
        query = dict(_pair(one) for one in pairs)
        if given.limit is not None:
            query = {"limit": str(given.limit), **query}
        return Asked(command.method, path, query)
    fields = {name: _value(text) for name, text in map(_pair, pairs)}
    if given.body is not None:
        return Asked(command.method, path, {}, _body(given.body), command.media_type)
    if command.sent:
        # An id of its own: two that are alike are two events.
        fields = {**command.sent, "id": str(uuid4()), **fields}
    return Asked(command.method, path, {}, fields or None, command.media_type)


def _body(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        sys.exit(f"The body is no JSON: {error}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        sys.exit(f"{text}: write it as name=value.")
    return name, value


def _value(text: str) -> Any:
    """JSON (10, null, […]), or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _show(said: Any, command: Command | None, *, as_json: bool) -> None:
    console = Console()
    if isinstance(said, str):
        sys.stdout.write(said)
    elif as_json or command is None:
        console.print_json(json.dumps(said))
    elif said is None:
        console.print("Done.")
    elif command.rows:
        console.print(table_of(said, command))
    else:
        console.print(fields_of(said))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local admin", description=__doc__)
    parser.add_argument("--url", help="of the gateway (default: $LAMBENT_URL, or ./local/up's)")
    parser.add_argument("--json", action="store_true", help="the API's answer as it is")
    nouns = parser.add_subparsers(dest="noun", required=True)
    for noun in dict.fromkeys(one.noun for one in COMMANDS):
        made = nouns.add_parser(
            noun,
            help=_about(noun),
            description=_usage(noun),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("words", nargs="*", metavar="word", help="ids, a verb, name=value")
        made.add_argument("--limit", type=int, help="how many rows of a list")
        made.add_argument("--body", help="the body as JSON, in place of name=value")
        _json_behind(made)
    anything = nouns.add_parser("call", help="call any route: call POST /keys '{…}'")
    anything.add_argument("method")
    anything.add_argument("path")
    anything.add_argument("body", nargs="?", help="JSON")
    _json_behind(anything)
    return parser.parse_args(arguments)


def _json_behind(parser: argparse.ArgumentParser) -> None:
    # Also behind the command, where people write it.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS)


def _about(noun: str) -> str:
    first, *_ = commands = commands_of(noun)
    verbs = ", ".join(one.verb for one in commands if one.verb)
    return verbs if first.verb else f"{first.about}{verbs and f'; {verbs}'}"


def _usage(noun: str) -> str:
    ids = ids_of(noun)
    lines = []
    for one in commands_of(noun):
        further = [name.upper() for name in one.parameters[len(ids) :]]
        words = [noun, *(name.upper() for name in ids), one.verb, *further]
        shown = " ".join(word for word in words if word)
        lines.append(f"  {shown:<32} {one.about} ({one.method} {one.path})")
    return "\n".join([f"{noun}: name=value filters a list and fills a body", *lines])


if __name__ == "__main__":
    main()
