"""Records what this version of the code asks of Postgres, for later versions to keep working.

`python -m tests.store.record_release NAME` before a release writes tests/store/released/NAME.json.
While a new version is rolled out, functions of the old one still run against its schema.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from lambent.admission.decisions import AdmissionRequest, Admitted, Outcome, Queued, Scope
from lambent.postgres import Params, Postgres, Query
from local.services import Postgres as PostgresService
from tests.store.admission_kit import HOST, stand

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
    verdict = first[0][0] if isinstance(first[0], list) and len(first) == 1 else None
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
    """A day of admission: keys, chats, a queue, a failure, a rotation, an end."""
    async with stand(dsn, max_inflight=1, breaker_failures=1) as place:
        recorder = Recorder(place.postgres)
        made = await place.keys.create("beta", "another", scopes=[Scope.CHAT, Scope.RUNS], limit=5)
        await place.keys.ensure_admin()
        first = await place.gate.admit(
            AdmissionRequest(credential=made.text, scope=Scope.CHAT, host=HOST, slot=True)
        )
        assert isinstance(first, Admitted)
        await place.gate.renew(first.grant)
        queued = await place.ask_as("beta", slot=True)
        assert isinstance(queued, Queued)
        await place.gate.look(queued)
        await place.gate.leave(queued)
        await place.gate.finish(first.grant, Outcome.SUCCESS)
        again = await place.admitted("beta", slot=True)
        await place.gate.finish(again.grant, Outcome.FAILURE)
        await place.gate.state()
        await place.keys.list()
        with suppress(AttributeError):
            await place.keys.rotate(made.key.id, grace_s=60)
            await place.keys.revoke(made.key.id)
        return recorder.calls


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, PostgresService.start(Path(folder)) as server:
        calls = asyncio.run(everyday(server.create_database("recorded")))
    RELEASED.mkdir(exist_ok=True)
    path = RELEASED / f"{sys.argv[1]}.json"
    path.write_text(json.dumps(calls, indent=1) + "\n")
    print(f"{len(calls)} statements in {path.name}")


if __name__ == "__main__":
    main()
