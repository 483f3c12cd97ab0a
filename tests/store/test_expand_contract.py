"""Migrations expand, and contract only later: what was released goes on working on a new schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lambent.admission.migrate import migrate
from lambent.clock import SystemClock
from lambent.postgres import Postgres
from tests.store.record_release import RELEASED, answer_of, everyday

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "layers/core/src/lambent"
ADMISSION = CORE / "admission"
# What breaks the code before it. Allowed a release later, with the reason on a line before it:
# `-- contract: nothing since NAME reads it`.
CONTRACTS = re.compile(
    r"\b(DROP\s+(TABLE|COLUMN|FUNCTION|SCHEMA)|RENAME|ALTER\s+COLUMN\s+\w+\s+(TYPE|SET\s+NOT)"
    r"|ADD\s+COLUMN\s+(?!.*DEFAULT)[^;]*NOT\s+NULL)",
    re.I,
)


def read(value: Any) -> Any:
    """A recorded parameter as it was given."""
    match value:
        case {"hex": text}:
            return bytes.fromhex(text)
        case {"text": text}:
            return text
        case list():
            return [read(one) for one in value]
        case _:
            return value


def calls_of(path: Path) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = json.loads(path.read_text())
    return calls


@pytest.mark.parametrize("path", sorted(RELEASED.glob("*.json")), ids=lambda path: path.stem)
async def test_released_code_runs_against_the_newest_schema(path: Path, postgres_dsn: str) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    try:
        await migrate(postgres)
        await replay(postgres, calls_of(path))
    finally:
        await postgres.close()


async def replay(postgres: Postgres, calls: list[dict[str, Any]]) -> None:
    vectors = (await postgres.fetch_one("SELECT to_regtype('vector') AS there")).there
    for call in calls:
        if "::vector" in call["sql"] and not vectors:
            continue  # asked only where pgvector is
        values = [read(one) for one in call["params"]]
        named = dict(zip(call["names"], values, strict=True)) if call["names"] else values
        rows = await postgres.fetch(call["sql"].encode(), named or None)
        assert answer_of(rows) == call["answer"], call["sql"]


async def test_what_is_asked_today_is_on_record_for_the_next_migration(postgres_dsn: str) -> None:
    """Else the version that is out now would not be tried against the schema that comes next."""
    newest = max(RELEASED.glob("*.json"))
    recorded = {call["sql"] for call in calls_of(newest)}
    asked = {call["sql"] for call in await everyday(postgres_dsn)}
    assert asked <= recorded, f"{newest.name} is old: python -m tests.store.record_release NAME"


def test_the_newest_record_has_every_statement_that_there_is() -> None:
    recorded = {call["sql"] for call in calls_of(max(RELEASED.glob("*.json")))}
    kept = {path.stem: path.read_text() for path in (ADMISSION / "sql").glob("*.sql")}
    assert not [name for name, text in kept.items() if text not in recorded]
    sources = "".join(path.read_text() for path in CORE.rglob("*.py"))
    called = set(re.findall(r"lambent\.(\w+)\((?=%s)", sources)) | {"decide", "decide_among"}
    assert len(called) > 10
    asked = "\n".join(recorded)
    assert not [name for name in called if f"lambent.{name}(" not in asked]


@pytest.mark.parametrize("path", sorted(ADMISSION.rglob("*.sql")), ids=lambda path: path.stem)
def test_a_migration_takes_nothing_away_without_saying_why(path: Path) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if CONTRACTS.search(line.split("--")[0]):
            assert number > 0, line
            assert "-- contract:" in lines[number - 1], f"{path.name}: {line.strip()}"
