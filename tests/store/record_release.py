"""Records what this version of the code asks of Postgres, for later versions to keep working.

`python -m tests.store.record_release NAME` before a release writes tests/store/released/NAME.json,
and never over a record that is there: that one stands for code that may still run. While a new
version is rolled out, functions of the old one still run against its schema. Names sort by age.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lambent.admission.activity import ActivityReports
from lambent.admission.audit import Action, Audit
from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.admission.decisions import (
    AdmissionRequest,
    Admitted,
    Candidates,
    Grant,
    Outcome,
    Principal,
    Queued,
    Scope,
)
from lambent.admission.hosts import HostBoard
from lambent.admission.reports import GroupBy, UsageFilter, UsageReports
from lambent.admission.sessions import Secret, SessionGate, Sessions
from lambent.admission.usage import ModelUse, Payer, TurnUse
from lambent.agents.memory import Memory
from lambent.clock import SystemClock
from lambent.errors import RateLimited
from lambent.postgres import Params, Postgres, Query
from local.services import Postgres as PostgresService
from tests.store.admission_kit import HOST, Stand, stand

RELEASED = Path(__file__).with_name("released")


class Recorder:
    """Stands in `fetch` and notes each statement with what it was given and what came back."""

    def __init__(self, postgres: Postgres) -> None:
        self.calls: list[dict[str, Any]] = []
        self._fetch = postgres.fetch
        postgres.fetch = self.fetch  # type: ignore[method-assign]

    async def fetch(self, query: Query, params: Params = None) -> list[Any]:
        rows = await self._fetch(query, params)
        text = query.decode() if isinstance(query, bytes) else query
        given = list(params.values()) if isinstance(params, dict) else list(params or ())
        named = list(params) if isinstance(params, dict) else None
        self.calls.append({"sql": text, "names": named, "params": [written(one) for one in given],
                           "answer": answer_of(rows)})  # fmt: skip
        return rows


def answer_of(rows: list[Any]) -> Any:
    """What the code that asked relies on: the columns by name, a verdict by its word."""
    if not rows:
        return None
    first = rows[0]
    word = isinstance(first[0], list) and first[0] and len(first) == 1
    verdict = first[0][0] if word else None
    return {"columns": list(first._fields), "verdict": verdict}


def written(value: Any) -> Any:
    """A parameter as JSON."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [written(one) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return {"text": value.isoformat() if hasattr(value, "isoformat") else str(value)}


async def everyday(dsn: str) -> list[dict[str, Any]]:
    """A day of the platform's functions, with everything that they ask of Postgres."""
    # A machine that is busy while this is recorded or replayed must not lose a place in the queue.
    patient = {"lease_s": 600.0, "ticket_lease_s": 600.0}
    async with stand(dsn, max_inflight=1, breaker_failures=1, **patient) as place:
        recorder = Recorder(place.postgres)
        await chats(place)
        await chats_among_hosts(place)
        await models(place)
        await keys(place)
        await pages(place)
        await books(place)
        await memories(place)
        return recorder.calls


async def chats(place: Stand) -> None:
    """Admission in each of its forms, the queue, a stream's bookings, a failure."""
    made = await place.keys.create("beta", "another", scopes=[Scope.CHAT, Scope.RUNS], limit=50)
    for wanted in (
        {"scope": Scope.CHAT},
        {"scope": Scope.CHAT, "limited": False},
        {"scope": Scope.CHAT, "agent_exists": False},
        {"scope": Scope.CHAT, "agent_exists": False, "limited": False},
        {"scope": Scope.CHAT, "host": HOST, "limited": False},
        {"scope": None, "host": HOST, "agent_exists": False},
    ):
        await place.gate.admit(AdmissionRequest(credential=made.text, **wanted))  # type: ignore[arg-type]
    first = await place.ask(made.text, host=HOST, slot=True)
    assert isinstance(first, Admitted)
    await place.gate.renew(first.grant)
    queued = await place.ask_as("beta", slot=True)
    assert isinstance(queued, Queued)
    await place.gate.look(queued)
    await place.gate.state()  # with a slot taken and somebody waiting
    await place.gate.leave(queued)
    await place.gate.book(used(1))
    judged = await place.gate.verdict(first.grant, Outcome.SUCCESS)
    place.gate.tally.chat("beta", first_s=0.3, tokens=4)
    place.gate.tally.refused("beta", RateLimited())
    await place.gate.finish(judged, Outcome.SUCCESS, used=used(2))
    place.gate.tally.chat("beta", first_s=0.3, tokens=4)
    await place.gate.book(used(3))
    place.gate.tally.chat("beta", first_s=0.3, tokens=4)
    again = await place.admitted("beta", slot=True)
    await place.gate.finish(again.grant, Outcome.FAILURE)
    await told(place)
    await place.gate.reset(HOST)


async def told(place: Stand) -> None:
    """What was counted and found no company."""
    place.gate.tally.chat("beta", first_s=0.3, tokens=4)
    place.gate.tally._told_s -= 60  # it waits for company, at most five seconds
    await place.gate.tell_tally()


async def chats_among_hosts(place: Stand) -> None:
    made = await place.keys.create("beta", "of several", scopes=[Scope.CHAT])
    hosts = Candidates((HOST, f"{HOST}0"), (HOST,))
    among = AdmissionRequest.for_client("beta", hosts)
    grants: list[Grant] = []
    for _ in hosts.hosts:
        admitted = await place.gate.admit(among)
        assert isinstance(admitted, Admitted)
        grants.append(admitted.grant)
    queued = await place.gate.admit(among)
    assert isinstance(queued, Queued)
    await place.gate.look(queued)
    await place.gate.leave(queued)
    for slot in (True, False):
        for limited in (True, False):
            asked = replace(among, credential=made.text, on_behalf_of=None, limited=limited,
                            slot=slot)  # fmt: skip
            again = await place.gate.admit(asked)
            if isinstance(again, Queued):
                await place.gate.leave(again)
    for grant in grants:
        await place.gate.finish(grant, Outcome.SUCCESS)


async def models(place: Stand) -> None:
    board = HostBoard(place.postgres, place.gate, hosts=[HOST])
    await board.states()
    await board.trip(HOST, open_s=30)
    await board.history(host=HOST)
    await board.reset(HOST)


async def keys(place: Stand) -> None:
    made = await place.keys.create("gamma", "a third", scopes=[Scope.EVENTS])
    await place.keys.ensure_admin()
    await place.keys.has_admin()
    await place.keys.list()
    await place.keys.change(made.key.id, name="renamed", limit=7)
    await place.keys.rotate(made.key.id, grace_s=60)
    await place.keys.revoke(made.key.id)


async def pages(place: Stand) -> None:
    """Somebody signs in at the admin pages, looks, changes something and leaves."""
    clock = SystemClock()
    made = await place.keys.create("ops", "a person's", scopes=[Scope.ADMIN, Scope.CHAT])
    secret = Secret(place.postgres)
    gate = SessionGate(place.postgres, secret=secret, clock=clock, config=place.config)
    sessions = Sessions(place.postgres, gate=gate, secret=secret, clock=clock, auth_enabled=True)
    session = await sessions.sign_in(made.text, address="192.0.2.1")
    assert await sessions.resume(session.text)
    await failed_sign_ins(sessions)
    audit = Audit(place.postgres, clock=clock)
    entry = await audit.begin(
        Action(principal=Principal(made.key.id, "a person's", "ops", frozenset({"admin"})),
               action="key.create", target="", via="page", address="192.0.2.1", request_id="r")
    )  # fmt: skip
    await audit.end(entry, 201, target="another")
    await audit.find()
    await sessions.end(session)
    assert await sessions.resume(session.text) is None
    await sessions.end_all(made.key.id)


async def failed_sign_ins(sessions: Sessions) -> None:
    """More than one address may have."""
    for _ in range(11):
        try:
            await sessions._count_try("192.0.2.2")
        except RateLimited:
            return
    raise AssertionError("any number of sign-ins may fail")


async def books(place: Stand) -> None:
    """Budgets, and what was used, of whatever day it is when this is replayed."""
    budgets = BudgetStore(place.postgres)
    edges = BudgetEdges(period=Period.DAY, unit=Unit.TOKENS, soft=1e6, hard=2e6)
    await budgets.put(Kind.CLIENT, "beta", [edges])
    await budgets.list(client="beta")
    await UsageReports(place.postgres).rows(UsageFilter(), by=list(GroupBy))
    activity = ActivityReports(place.postgres, clock=Later())
    await activity.hours(24)
    await activity.refused(200 * 365 * 24)


async def memories(place: Stand) -> None:
    memory = Memory(place.postgres)
    wanted = {"model": "all-minilm", "embedding": [0.6, 0.8]}
    await memory.keep("beta", "The key is under the mat.", id="01", **wanted)  # type: ignore[arg-type]
    for one in (memory, Memory(place.postgres, vectors=False)):
        assert await one.recall("beta", limit=1, **wanted)  # type: ignore[arg-type]


class Later(SystemClock):
    """A hundred years on, so that a span that ends now has what a replay books in it."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=36_500)


def used(seq: int) -> TurnUse:
    """The bookings of one turn."""
    use = ModelUse(model="smollm2:135m", requests=1, broken=0, prompt_tokens=4,
                   completion_tokens=seq, estimated_tokens=0, model_s=0.5)  # fmt: skip
    payer = Payer(client="beta", key_id=None, agent="chat")
    return TurnUse(turn="01TURN", seq=seq, payer=payer, models=(use,))


def main() -> None:
    path = RELEASED / f"{sys.argv[1]}.json"
    if path.exists():
        sys.exit(f"{path.name} stands for code that may still run; give another name")
    with tempfile.TemporaryDirectory() as folder, PostgresService.start(Path(folder)) as server:
        calls = asyncio.run(everyday(server.create_database("recorded")))
    RELEASED.mkdir(exist_ok=True)
    path.write_text(json.dumps(calls, indent=1) + "\n")
    print(f"{len(calls)} statements in {path.name}")


if __name__ == "__main__":
    main()
