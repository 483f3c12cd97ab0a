"""Shows what the admin API answers as tables."""

import json
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from local.admin_commands import Command

_TONES: Final = {
    "completed": "green", "delivered": "green", "active": "green", "closed": "green", "ok": "green",
    "failed": "red", "dead": "red", "open": "red", "revoked": "red",
    "blocked": "yellow", "paused": "yellow", "running": "blue", "pending": "blue",
}  # fmt: skip


def table_of(said: Mapping[str, Any], command: Command) -> RenderableType:
    """The rows of a list, and how to ask for more of them."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in command.columns:
        name = command.rows if column == "." else column
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in said[command.rows]:
        table.add_row(*(_cell(_part(row, column)) for column in command.columns))
    if said.get("cursor") is None:
        return table
    return Group(table, Text(f"more: cursor={said['cursor']}", style="dim"))


def fields_of(said: Mapping[str, Any]) -> RenderableType:
    """One thing, a line for each of its parts that says something."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in said.items():
        if value is not None:
            table.add_row(name.replace("_", " "), _cell(value))
    return table


def _part(row: Any, column: str) -> Any:
    if column == ".":
        return row
    for name in column.split("."):
        row = row.get(name)
    return row


def _cell(value: Any) -> Text:
    # Text, not markup: a name is whatever somebody chose.
    plain = isinstance(value, list) and not any(isinstance(one, dict | list) for one in value)
    if plain:
        shown = ", ".join(map(str, value))
    elif isinstance(value, dict | list):
        shown = json.dumps(value, ensure_ascii=False)
    else:
        shown = "" if value is None else str(value)
    return Text(shown, style=_TONES.get(shown, ""))
