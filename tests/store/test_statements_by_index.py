"""Every statement of admission, of reports and of the admin pages goes by an index."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any, Final

import pytest

import lambent.admission
from lambent.admission.migrate import migrate
from lambent.admission.statements import statement
from lambent.clock import SystemClock
from lambent.postgres import Postgres

# As many rows as a busy deployment has; `rare` stands once in a thousand.
FILL: Final = (
    """INSERT INTO lambent.api_key (id, secret_hash, name, client, scopes)
       SELECT 'K' || lpad(n::text, 6, '0'), decode(repeat('00', 32), 'hex'), 'n',
              'c' || n % 200, '{chat}'
       FROM generate_series(1, 20000) n""",
    """INSERT INTO lambent.audit (id, key_id, client, action, target, via, address, request_id,
                                  outcome)
       SELECT lpad(n::text, 8, '0'), 'K' || n % 10,  'ops',
              CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'a' || n % 10 END, 't' || n, 'api', '', '',
              200
       FROM generate_series(1, 60000) n""",
    """INSERT INTO lambent.usage_day (day, client, key_id, agent, model, requests)
       SELECT '2026-01-01'::date + n % 400, 'c' || n / 400 % 100, 'K' || n / 400 % 100,
              'a' || n % 3, 'm' || n / 40000, 1
       FROM generate_series(1, 120000) n""",
    """INSERT INTO lambent.usage_total
       SELECT 'client', 'c' || n, '2026-01-01', 1, 1, '2026-01-01', 1, 1
       FROM generate_series(1, 10000) n""",
    """INSERT INTO lambent.budget (kind, owner, period, unit, client, hard)
       SELECT 'client', 'c' || n, 'day', 'tokens', 'c' || n, 9 FROM generate_series(1, 10000) n""",
    """INSERT INTO lambent.budget (kind, owner, period, unit, client, hard)
       SELECT 'key', 'K' || lpad(n::text, 6, '0'), 'day', 'tokens', 'c' || n % 200, 9
       FROM generate_series(1, 10000) n""",
    """INSERT INTO lambent.activity (hour, client, over_limit)
       SELECT '2026-01-01'::timestamptz + n / 20 * interval '1 hour', 'c' || n % 20, 1
       FROM generate_series(1, 50000) n""",
    """INSERT INTO lambent.breaker_change (host, was, state, generation, failures, by_hand)
       SELECT CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'h' || n % 5 END, 'open', 'closed', 1, 0,
              false
       FROM generate_series(1, 30000) n""",
    """INSERT INTO lambent.sign_in_limit
       SELECT 'a' || n, clock_timestamp() + interval '1 minute' FROM generate_series(1, 20000) n""",
    """INSERT INTO lambent.ended_session
       SELECT 's' || n, clock_timestamp() + interval '1 hour' FROM generate_series(1, 20000) n""",
    """INSERT INTO lambent.memory (id, client, model, content, embedding)
       SELECT 'm' || n, 'c' || n % 1000, 'e', 'x', '{1,0}' FROM generate_series(1, 20000) n""",
    "ANALYZE",
)
# What may be looked at for each row that comes out; a few are never too many.
MOST_FOR_ONE: Final = 20
FEW: Final = 200
LARGE: Final = 5000

# Of a row or two for each model host, which a deployment counts on its fingers.
SMALL: Final = {
    "state_breakers": "a row a host", "state_hosts": "a row a slot", "state_slots": "a row a slot",
    "state_waiting": "those who wait for a slot", "memory_has_vectors": "of no table",
    "session_secret": "one row",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = {name: one for name, one in self.params.items() if isinstance(one, str | date)}
        return " ".join([self.name, *(f"{name}={one}" for name, one in said.items())])


def keys(**asked: Any) -> Case:
    return Case("key_list", {"client": None, "cursor": None, "limit": 51, **asked})


def audit(**asked: Any) -> Case:
    every = {"key_id": None, "action": None, "target": None, "first": "", "before": "Z"}
    return Case("audit_list", {**every, "limit": 51, **asked})


def usage(*by: str, **asked: Any) -> Case:
    groups = ("day", "month", "client", "key", "agent", "model")
    window = {"from_day": date(2026, 6, 1), "to_day": date(2026, 6, 30)}
    every = {"client": None, "key": None, "agent": None, "model": None, "limit": 1001}
    grouped = {f"by_{one}": one in by for one in groups}
    return Case("usage_report", {**grouped, **window, **every, **asked})


def of_key(name: str, /, **asked: Any) -> Case:
    return Case(name, {"id": "K000100", **asked})


def budgets(**asked: Any) -> Case:
    return Case("budget_list", {"client": None, "key": None, "limit": 1000, **asked})


SPAN: Final = {"since": datetime(2026, 2, 1, tzinfo=UTC), "last": datetime(2026, 2, 2, tzinfo=UTC)}
HASH: Final = bytes(32)
ROW: Final = {"name": "n", "client": "c1", "scopes": ["chat"], "quota": None, "expires_at": None}
CASES: Final = (
    keys(), keys(client="c7"), keys(cursor="K010000"), keys(client="c7", cursor="K010000"),
    keys(client="none"),
    of_key("key_get"), of_key("key_revoke"), of_key("key_rotate", grace_s=1, secret_hash=HASH),
    of_key("key_change", name="x", set_quota=True, quota=1, set_expiry=False, expires_at=None),
    Case("key_insert", {"id": "new", "secret_hash": HASH, **ROW}),
    Case("key_ensure_admin", {"id": "K000100", "secret_hash": HASH, "given": True, **ROW}),
    audit(), audit(action="rare"), audit(key_id="K3"), audit(target="t900"),
    audit(target="t900", action="a3"), audit(before="00030000"), audit(key_id="none"),
    audit(first="00010000", before="00010100"), audit(key_id="K3", before="00030000"),
    Case("audit_begin", {"id": "new", "key_id": "K1", "key_name": "n", "client": "c", "via": "api",
                         "action": "a", "target": "t", "address": "", "request_id": ""}),
    Case("audit_end", {"id": "00000100", "outcome": 200, "action": None, "target": None}),
    usage("day"), usage("day", "client"), usage(), usage("day", client="c7"),
    usage("day", key="K7"), usage("model", client="c7", key="K7"), usage("day", model="m1"),
    usage("day", agent="a1"), usage("month", client="c7", from_day=date(2026, 1, 1)),
    budgets(client="c7"), budgets(client="c7", key="K000007"),
    Case("budget_put", {"kind": "client", "owner": "c7", "budgets": "[]"}),
    Case("budget_put", {"kind": "key", "owner": "K000007", "budgets": json.dumps(
        [{"period": "day", "unit": "tokens", "soft": 1, "hard": 2}])}),
    Case("activity_hours", SPAN), Case("activity_refused", {**SPAN, "limit": 5}),
    Case("breaker_history", {"host": None, "before": None, "limit": 51}),
    Case("breaker_history", {"host": "rare", "before": None, "limit": 51}),
    Case("breaker_history", {"host": "h1", "before": 9000, "limit": 51}),
    Case("session_key", {"id": "K000100", "session": "s100"}),
    Case("session_end", {"session": "new", "ends_s": 4_000_000_000}), of_key("session_end_all"),
    Case("sign_in_try", {"address": "a100", "step_s": 6.0, "slack_s": 60.0}),
    Case("sign_in_wait", {"address": "a100", "slack_s": 60.0}),
    Case("sign_in_forgive", {"address": "a100", "step_s": 6.0}),
    Case("memory_insert", {"id": "new", "client": "c1", "model": "e", "content": "x",
                           "embedding": [1.0, 0.0]}),
    Case("memory_recall_plain", {"client": "c1", "model": "e", "embedding": [1.0, 0.0],
                                 "limit": 5}),
    Case("memory_recall_vectors", {"client": "c1", "model": "e", "embedding": [1.0, 0.0],
                                   "limit": 5}),
)  # fmt: skip


@pytest.fixture
async def postgres(postgres_dsn: str) -> AsyncIterator[Postgres]:
    made = Postgres(postgres_dsn, clock=SystemClock())
    await migrate(made)
    async with made.session() as connection:
        await connection.execute("SET statement_timeout = 0")  # a filling is no request
        for text in FILL:
            await connection.execute(text.encode())
    yield made
    await made.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def problems(case: Case, plan: dict[str, Any], rows_of: dict[str, int]) -> Iterator[str]:
    """What of it is a scan of a large table, or looks at much for little."""
    for node in nodes(plan):
        table, loops = node.get("Relation Name"), node["Actual Loops"]
        if table is None or rows_of.get(table, 0) < LARGE:
            continue
        kept, removed = node["Actual Rows"], node.get("Rows Removed by Filter", 0)
        if node["Node Type"] == "Seq Scan":
            yield f"{case}: a scan of {table}"
        elif removed * loops > max(FEW, MOST_FOR_ONE * kept * loops):
            yield f"{case}: {removed} of {table} looked at in vain for {kept}"
        elif case.params.get("limit") == 51 and kept * loops > FEW:
            yield f"{case}: {kept} of {table} read for a page"


async def test_every_statement_goes_by_an_index(postgres: Postgres) -> None:
    counts = await postgres.fetch("SELECT relname, reltuples::bigint AS rows FROM pg_class")
    rows_of = {row.relname: row.rows for row in counts}
    vectors = (await postgres.fetch_one(statement("memory_has_vectors"))).found
    found: list[str] = []
    for case in CASES:
        if case.name == "memory_recall_vectors" and not vectors:
            continue
        asked = b"EXPLAIN (ANALYZE, FORMAT JSON) " + statement(case.name)
        async with (
            postgres.session() as connection,
            connection.transaction(force_rollback=True),
        ):
            answer = await (await connection.execute(asked, case.params)).fetchone()
        found += problems(case, answer[0][0]["Plan"], rows_of)
    assert found == [], "\n".join(found)


def test_every_statement_is_asked_here_or_is_of_a_small_table() -> None:
    folder = files(lambent.admission) / "sql"
    names = {one.name.removesuffix(".sql") for one in folder.iterdir()}
    assert names == {case.name for case in CASES} | SMALL.keys()
