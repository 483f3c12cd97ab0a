"""Eight processes at once: what is exact is exact between them. As a script: one of the eight."""

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from lambent.admission.decisions import (
    AdmissionConfig,
    AdmissionRequest,
    Admitted,
    Outcome,
    Queued,
    Scope,
)
from lambent.admission.gate import Gate
from lambent.clock import SystemClock
from lambent.postgres import Postgres

HOST = "http://model.test:11434"
PROCESSES = 8


async def pass_limit(gate: Gate, postgres: Postgres, *, key: str, until: float) -> dict[str, int]:
    """Ask as fast as one can; count what passes."""
    passed = asked = 0
    while time.time() < until:
        decision = await gate.admit(AdmissionRequest(credential=key, scope=Scope.CHAT))
        passed += isinstance(decision, Admitted)
        asked += 1
    return {"passed": passed, "asked": asked}


async def fail(gate: Gate, postgres: Postgres, *, key: str, until: float) -> dict[str, int]:
    """Ten failures each, unless refused."""
    failed = 0
    for _ in range(10):
        decision = await gate.admit(trusted())
        if isinstance(decision, Admitted):
            await gate.finish(decision.grant, Outcome.FAILURE)
            failed += 1
    return {"failed": failed}


async def hold_probe(gate: Gate, postgres: Postgres, *, key: str, until: float) -> dict[str, int]:
    """Take whatever is given, give nothing back."""
    taken = 0
    while time.time() < until:
        taken += isinstance(await gate.admit(trusted()), Admitted)
    return {"taken": taken}


async def heal(gate: Gate, postgres: Postgres, *, key: str, until: float) -> dict[str, int]:
    """Succeed with whatever is given; count the probes."""
    probes = calls = 0
    while time.time() < until:
        decision = await gate.admit(trusted())
        if isinstance(decision, Admitted):
            probes += decision.grant.probe
            calls += not decision.grant.probe
            await gate.finish(decision.grant, Outcome.SUCCESS)
    return {"probes": probes, "calls": calls}


async def take_slots(gate: Gate, postgres: Postgres, *, key: str, until: float) -> dict[str, int]:
    """Two takers in each process; a witness of its own counts who is inside."""

    async def taker(most: int = 0, held: int = 0) -> tuple[int, int]:
        while time.time() < until:
            decision: Any = await gate.admit(trusted(slot=True))
            if isinstance(decision, Queued):
                decision = [step async for step in gate.wait(decision)][-1]
            if not isinstance(decision, Admitted):
                continue
            row = await postgres.fetch_one(
                "UPDATE witness SET inside = inside + 1 RETURNING inside"
            )
            most, held = max(most, row.inside), held + 1
            await asyncio.sleep(0.005)
            await postgres.fetch("UPDATE witness SET inside = inside - 1")
            await gate.finish(decision.grant, Outcome.SUCCESS)
        return most, held

    results = await asyncio.gather(taker(), taker())
    return {"most": max(most for most, _ in results), "held": sum(held for _, held in results)}


def trusted(*, slot: bool = False) -> AdmissionRequest:
    return AdmissionRequest(
        credential=None, scope=Scope.RUNS, on_behalf_of="acme", host=HOST, slot=slot
    )


async def work(order: dict[str, Any]) -> None:
    clock = SystemClock()
    postgres = Postgres(order["dsn"], clock=clock)
    gate = Gate(postgres, clock=clock, config=AdmissionConfig(**order["config"]))
    await postgres.ping()
    print("ready", flush=True)
    until = float(await asyncio.to_thread(sys.stdin.readline))
    duty = globals()[order["duty"]]
    print(json.dumps(await duty(gate, postgres, key=order["key"], until=until)), flush=True)
    await postgres.close()


def fleet(
    dsn: str, duty: str, *, seconds: float = 1.0, key: str = "", **config: Any
) -> list[dict[str, int]]:
    """Start all, wait until each is connected, let them go at the same moment."""
    order = json.dumps({"dsn": dsn, "duty": duty, "key": key, "config": config})
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        until = time.time() + seconds
        for worker in workers:
            assert worker.stdin
            worker.stdin.write(f"{until}\n")
            worker.stdin.flush()
        return [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def total(results: list[dict[str, int]], name: str) -> int:
    return sum(result[name] for result in results)


if __name__ != "__main__":
    from tests.store.admission_kit import stand

    async def test_a_limit_is_exact_however_many_ask(postgres_dsn: str) -> None:
        async with stand(postgres_dsn) as place:
            before = time.time()
            results = await asyncio.to_thread(
                fleet, postgres_dsn, "pass_limit", seconds=2.0, key=place.key, limit=100
            )
            passed, took_s = total(results, "passed"), time.time() - before
            assert total(results, "asked") > 2 * passed
            assert passed >= 100 + int(2.0 / 0.6)
            assert passed <= 100 + int(took_s / 0.6) + 1

    async def test_in_the_long_run_the_rate_is_reached_and_not_passed(postgres_dsn: str) -> None:
        async with stand(postgres_dsn) as place:
            numbers = {"limit": 20, "window_s": 0.2}  # 100 a second
            await asyncio.to_thread(
                fleet, postgres_dsn, "pass_limit", seconds=0.3, key=place.key, **numbers
            )
            row = await place.postgres.fetch_one("SELECT tat FROM lambent.client_limit")
            results = await asyncio.to_thread(
                fleet, postgres_dsn, "pass_limit", seconds=3.0, key=place.key, **numbers
            )
            later = await place.postgres.fetch_one("SELECT tat FROM lambent.client_limit")
            passed = total(results, "passed")
            # Every pass moved the arrival time by one step at least: nothing slipped by.
            assert passed <= (later.tat - row.tat).total_seconds() * 100 + 0.001
            assert passed >= 0.95 * 300

    async def test_failures_are_counted_across_processes(postgres_dsn: str) -> None:
        async with stand(postgres_dsn) as place:
            await asyncio.to_thread(fleet, postgres_dsn, "fail", breaker_failures=1000)
            (breaker,) = (await place.gate.state()).breakers
            assert breaker.failures == 10 * PROCESSES
            await asyncio.to_thread(fleet, postgres_dsn, "fail", breaker_failures=100)
            (breaker,) = (await place.gate.state()).breakers
            # The twentieth more opened it; what was under way then came too late to count.
            assert (breaker.state, breaker.generation, breaker.failures) == ("open", 1, 100)

    async def test_one_process_gets_the_probe(postgres_dsn: str) -> None:
        async with stand(postgres_dsn) as place:
            await place.gate.trip(HOST, open_s=0.1)
            results = await asyncio.to_thread(fleet, postgres_dsn, "hold_probe", seconds=1.5)
            assert total(results, "taken") == 1

    async def test_three_probes_close_it_for_all(postgres_dsn: str) -> None:
        async with stand(postgres_dsn) as place:
            await place.gate.trip(HOST, open_s=0.1)
            results = await asyncio.to_thread(fleet, postgres_dsn, "heal", seconds=1.5)
            assert total(results, "probes") == 3
            assert total(results, "calls") > 0
            assert (await place.gate.state()).breakers[0].state == "closed"

    async def test_sixteen_takers_never_hold_more_slots_than_there_are(postgres_dsn: str) -> None:
        async with stand(postgres_dsn) as place:
            await place.postgres.fetch("CREATE TABLE witness AS SELECT 0 AS inside")
            results = await asyncio.to_thread(
                fleet, postgres_dsn, "take_slots", seconds=3.0, max_inflight=3, poll_s=0.02
            )
            assert max(result["most"] for result in results) <= 3
            assert all(result["held"] > 0 for result in results)
            assert (await place.gate.state()).slots == ()
else:
    asyncio.run(work(json.loads(sys.argv[1])))
