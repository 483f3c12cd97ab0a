"""Everything that the admin API can do is a named command of `python -m local admin`."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest

from local.admin import _parse, asked_of
from local.admin_commands import COMMANDS, Command, ids_of
from tests.unit.api_document import api_document, operations, resolved

# What no command is for, by the beginning of its path.
LEFT_OUT = {
    "/chat": "a turn belongs to the chat function, which has an address of its own",
    "/agents": "the chat function's, too; `agents` asks the gateway's own list",
    "/runs/{run_id}/events": "a stream of the chat function; `run` asks for the same once",
    "/runs/counts/events": "likewise; `runs counts` asks once",
}


def words_of(command: Command) -> list[str]:
    """As they are typed, each id said by its parameter's name."""
    before = len(ids_of(command.noun))
    ids = [f"{name}/1" for name in command.parameters]
    return [command.noun, *ids[:before], *command.verb.split(), *ids[before:]]


def by_words(command: Command) -> str:
    return command.words


def is_left_out(path: str) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in LEFT_OUT)


async def test_every_route_of_the_api_has_a_command_and_every_command_a_route() -> None:
    document = await api_document()
    routes = {(method, path) for method, path, _ in operations(document) if not is_left_out(path)}
    asked = [(one.method, one.path) for one in COMMANDS]
    assert sorted(routes) == sorted(asked)


async def test_what_is_left_out_is_there_and_has_a_reason() -> None:
    paths = (await api_document())["paths"]
    assert LEFT_OUT.keys() <= paths.keys()
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize("command", COMMANDS, ids=by_words)
def test_a_command_asks_its_route(command: Command) -> None:
    found, asked = asked_of(_parse([*words_of(command), "name=value"]))
    path = command.path
    for name in command.parameters:
        path = path.replace(f"{{{name}}}", f"{name}/1")
    assert (found, asked.method, unquote(asked.path)) == (command, command.method, path)
    said: Any = asked.query if command.method in ("GET", "DELETE") else asked.body
    assert said["name"] == "value"


def column_of(document: dict[str, Any], schema: dict[str, Any], column: str) -> bool:
    """Whether a row has it: `event.type` is the part of a part, which may be anything."""
    for name in column.split("."):
        if schema.get("additionalProperties") is True:
            return True
        schema = resolved(document, schema)
        if name not in schema["properties"]:
            return False
        schema = schema["properties"][name]
    return True


async def test_every_column_of_a_table_is_in_the_answer() -> None:
    document = await api_document()
    described = {(method, path): one for method, path, one in operations(document)}
    for command in COMMANDS:
        if not command.rows:
            continue
        answers = described[command.method, command.path]["responses"]
        good = next(answers[status] for status in ("200", "201", "202") if status in answers)
        answer = resolved(document, good["content"]["application/json"]["schema"])
        row = resolved(document, answer["properties"][command.rows]["items"])
        wrong = [one for one in command.columns if one != "." and not column_of(document, row, one)]
        assert not wrong, (command.words, wrong)


@pytest.mark.parametrize(
    "words", [["run"], ["run", "1", "explode"], ["budget", "client"], ["run", "1", "decide"]]
)
def test_words_that_are_no_command_are_answered_with_the_commands(words: list[str]) -> None:
    with pytest.raises(SystemExit, match=rf"{words[0]}.*\(POST|PUT"):
        asked_of(_parse(words))


def test_a_value_is_json_or_else_the_text_itself() -> None:
    _, asked = asked_of(_parse(["keys", "create", "name=ci", "limit=10", 'scopes=["chat"]']))
    assert asked.body == {"name": "ci", "limit": 10, "scopes": ["chat"]}
