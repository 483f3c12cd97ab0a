"""Looks at what a storm left behind: every promise of the engine, checked in the store itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from lambent.clock import EPOCH, FAR_FUTURE
from lambent.engine.model import ENDED_IN

Document = dict[str, Any]
RUNNING = ["pending", "running", "waiting", "paused", "blocked"]
ACTS = [f"a{number}" for number in range(10)]
STORM = [*ACTS, *(f"fan[{n}]/part-{n}" for n in range(3)), "sleep", "now", "publish storm.told"]
LEAF = ["storm-leaf", "result of storm-leaf"]
WAITS = {"first": "first", "one": None, "two": None, "late": "late"}


@dataclass(frozen=True, slots=True)
class Findings:
    """`counts` to print; `problems`, of which there must be none."""

    counts: Mapping[str, int]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        said = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        return f"{said}; {len(self.problems)} problems"


async def examine(
    db: AsyncDatabase[Document],
    run_ids: Mapping[str, str],
    traces: Path,
    *,
    seen: Mapping[str, Document],
) -> Findings:
    """`run_ids`: by subject. `seen`: final checkpoints as they were when they were first seen."""
    return judge(await _read(db), run_ids, read_traces(traces), seen=seen)


def judge(
    store: Mapping[str, list[Document]],
    run_ids: Mapping[str, str],
    lines: list[Document],
    *,
    seen: Mapping[str, Document],
) -> Findings:
    """`store`: all documents of its collections, by name; `lines`: all traces."""
    problems = [
        *_unfinished(store["runs"]),
        *_missing_runs(store["runs"], run_ids),
        *_left_over(store),
        *_changed(store["steps"], seen),
        *_unlike_their_traces(store["steps"], lines),
        *_told_otherwise(store, lines),
        *_wrong_results(store, run_ids),
        *_lost_events(store, run_ids),
    ]
    repeated = Counter((line["run"], line["step"]) for line in lines)
    counts = {
        "runs": len(store["runs"]),
        "checkpoints": len(store["steps"]),
        "effects": len(lines),
        "effects repeated": sum(count - 1 for count in repeated.values()),
        "events": len(store["events"]),
        "waits": len(store["waits"]),
    }
    return Findings(counts, tuple(problems))


async def _read(db: AsyncDatabase[Document]) -> dict[str, list[Document]]:
    names = ("runs", "steps", "waits", "events")
    return {name: await db[name].find().to_list() for name in names}


def _unfinished(runs: Iterable[Document]) -> list[str]:
    return [
        f"run {run['_id']} ({run['workflow']} {run['key']}) is {run['status']}: "
        f"{run['blocked'] or run['error']}"
        for run in runs
        if run["status"] != "completed"
    ]


def _missing_runs(runs: Iterable[Document], run_ids: Mapping[str, str]) -> list[str]:
    """One storm a subject, one echo an event, one leaf for each that starts one: no more."""
    count = len(run_ids)
    wanted = {"storm": count, "storm-echo": count, "storm-leaf": (count + 4) // 5}
    there = Counter(run["workflow"] for run in runs)
    return [] if there == wanted else [f"runs: {dict(there)} instead of {wanted}"]


def _left_over(store: Mapping[str, list[Document]]) -> list[str]:
    """Something leased, due, owed or open, though all is over."""
    due = [
        f"{name} {one['_id']} is left: lease {one['lease']} until {one['lease_until']}, "
        f"due {one['due_at']}, owes {one.get('owes')}, {one['status']}"
        for name, status in (("runs", "completed"), ("events", "delivered"))
        for one in store[name]
        if (one["lease"], one["lease_until"], one["due_at"]) != (None, EPOCH, FAR_FUTURE)
        or (one.get("owes", []), one["status"]) != ([], status)
    ]
    opened = [wait for wait in store["waits"] if wait["status"] == "open"]
    return due + [f"wait {wait['_id']} is still open" for wait in opened]


def _changed(steps: Iterable[Document], seen: Mapping[str, Document]) -> list[str]:
    """A checkpoint that is not what it was, or is there twice."""
    now = {step["_id"]: step for step in steps}
    keys = Counter((step["run"], step["epoch"], step["key"]) for step in now.values())
    twice = [f"checkpoint {key} is there {count} times" for key, count in keys.items() if count > 1]
    # Only the retention is set later, when the debts of the ended run are paid.
    return twice + [
        f"checkpoint {key} was changed: {before} → {now.get(key)}"
        for key, before in seen.items()
        if _without_expiry(before) != _without_expiry(now.get(key, {}))
    ]


def _without_expiry(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in ("expire_at", ENDED_IN)}


def _unlike_their_traces(steps: Iterable[Document], lines: list[Document]) -> list[str]:
    """A checkpoint whose effect never happened, or is another's."""
    left = {(line["run"], line["step"], line["token"]) for line in lines}
    return [
        f"checkpoint {step['_id']} holds {step['output']}, which no effect of it left"
        for step in steps
        if step["kind"] == "do"
        and (step["run"], step["key"].rpartition("/")[2], step["output"]) not in left
    ]


def _told_otherwise(store: Mapping[str, list[Document]], lines: list[Document]) -> list[str]:
    """A slice, alive or late, that was ever given anything but what is on record now."""
    stories = _stories(store)
    return [
        f"step {line['step']} of run {line['run']} was begun after another past than is on record"
        for line in lines
        if line["told"] != stories[line["run"]].get(line["step"])
    ]


def _stories(store: Mapping[str, list[Document]]) -> dict[str, dict[str, str]]:
    """For each run and step: the digest of all that its code was given before, by the record."""
    steps: dict[str, dict[str, Document]] = defaultdict(dict)
    for one in [*store["steps"], *store["waits"]]:
        steps[one["run"]][one["key"]] = one
    workflows = {run["_id"]: run["workflow"] for run in store["runs"]}
    return {run: _story(workflows[run], found) for run, found in steps.items()}


def _story(workflow: str, found: Mapping[str, Document]) -> dict[str, str]:
    told: list[Any] = []
    digests: dict[str, str] = {}

    def tell(*keys: str) -> None:
        for key in keys:
            digests[key.rpartition("/")[2]] = told_digest(told)
        told.extend(_given(found[key]) for key in keys if key in found)

    order: list[tuple[str, ...]] = [(key,) for key in ACTS]
    if workflow == "storm":
        order[2:2] = [("first",)]
        order[4:4] = [tuple(f"fan[{n}]/part-{n}" for n in range(3))]
        order[7:7] = [("one",), ("two",)]
        order[11:11] = [("now",)]
        order[13:13] = [("late",)]
        order[15:15] = [("result of storm-leaf",)]
    for keys in order:
        tell(*keys)
    digests["end"] = told_digest(told)
    return digests


def _given(record: Document) -> Any:
    match record["kind"]:
        case "wait":
            return record["record"]["data"] if record["record"] else None
        case "now":
            return record["finished_at"].isoformat()
        case _:
            return record["output"]


def told_digest(told: list[Any]) -> str:
    """As the storm's workflows make it of all that they were given so far."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _wrong_results(store: Mapping[str, list[Document]], run_ids: Mapping[str, str]) -> list[str]:
    runs = {run["_id"]: run for run in store["runs"]}
    stories = _stories(store)
    problems = []
    for subject, run_id in run_ids.items():
        run = runs.get(run_id)
        if run is None or run["status"] != "completed":
            continue  # told elsewhere
        output = run["output"]
        names = [output["first"]["name"], output["late"]["name"]]
        pair = sorted(one["name"] for one in output["pair"])
        whose = {one["subject"] for one in [output["first"], output["late"], *output["pair"]]}
        right = (names, pair, whose) == (["first", "late"], ["one", "two"], {subject})
        if not right or output["digest"] != stories[run_id]["end"]:
            problems.append(f"run {run_id} ({subject}) ended with {output}")
    return problems


def _lost_events(store: Mapping[str, list[Document]], run_ids: Mapping[str, str]) -> list[str]:
    """Each published event is held by exactly one wait, and each run has published once."""
    held = Counter(wait["event"] for wait in store["waits"])
    problems = [
        f"event {event['_id']} ({event['id']}) is held by {held[event['_id']]} waits"
        for event in store["events"]
        if event["source"] == "storm" and held[event["_id"]] != 1
    ]
    kinds = Counter(event["source"] for event in store["events"])
    wanted = {"storm": 4 * len(run_ids), "lambent/workflows/storm": len(run_ids)}
    return problems if kinds == wanted else [*problems, f"events: {dict(kinds)}, not {wanted}"]


def read_traces(traces: Path) -> list[Document]:
    """What the bodies of all steps have left so far."""
    return [json.loads(line) for line in traces.read_text().splitlines()]
