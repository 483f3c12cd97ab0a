"""Starts runs, once for each key, as the flow control of their workflow says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import bson
from pymongo.errors import DuplicateKeyError

from lambent.clock import Clock
from lambent.codec import encode
from lambent.due import Claimed, DueDocuments, read_winner
from lambent.engine import marks, slice_history
from lambent.engine.config import Nudger
from lambent.engine.documents import new_run
from lambent.engine.flow import slot_group
from lambent.engine.inputs import misfit
from lambent.engine.model import ACTIVE, CHUNKS, PARKED, Control, Level, Status
from lambent.engine.options import Batch, Debounce, Flow, Singleton, group_of
from lambent.engine.registry import Registry, Workflow
from lambent.engine.values import Values, is_chunked
from lambent.errors import (
    Conflict,
    NotFound,
    RequestError,
    Unavailable,
    Unprocessable,
    Unserialisable,
)
from lambent.ids import new_ulid
from lambent.metrics import Metric, note
from lambent.mongo import Document, guarded
from lambent.tracing import carried

_TRIES: Final = 20
# Of a run that gathers: as long as nobody has begun it, or asked it to stop or to rest.
_JOINABLE: Final[Document] = {"status": Status.PENDING.value, "control": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run that someone asks for. `key`: its identity for this client; none: always a new run.

    `parent`: `{"run", "epoch", "key"}` of the step that asks, for a child. `internal`: the
    platform itself asks, and may start what nobody else may. `checked`: the input has to fit what
    the workflow declares; that of an event or a tick is not for whoever sends it now to mend.
    """

    workflow: str
    client: str
    input: Any = None
    key: str | None = None
    version: int | None = None
    priority: int | None = None
    budget: int | None = None
    parent: Document | None = None
    internal: bool = False
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The run, and whether this call made it, or was joined to it (debounced or batched).

    `claimed`: the caller's hold on a run that he asked to `take`, and that this call made.
    """

    run: Document
    created: bool
    joined: bool = False
    claimed: Claimed | None = None


class Starter:
    """Inserts runs. Every rule about "one" is a unique index, not a check before the insert."""

    def __init__(
        self,
        due: DueDocuments,
        *,
        registry: Registry,
        values: Values,
        nudger: Nudger,
        clock: Clock,
    ) -> None:
        self._due = due
        self._registry = registry
        self._values = values
        self._nudger = nudger
        self._clock = clock

    async def ensure_indexes(self) -> None:
        runs = self._due.collection
        await guarded(runs.create_index("marks", unique=True))

    async def start(self, wanted: Start, *, nudge: bool = True) -> Started:
        """The run under that key, now or earlier started.

        Raises `NotFound` (no such workflow or version), `Conflict` (the key stands for another
        input), `Unprocessable` (an input that does not fit or cannot be kept, a priority that does
        not exist).
        """
        workflow = self._registry.named(wanted.workflow, wanted.version)
        if workflow.internal and not wanted.internal:
            raise NotFound(f"The workflow {workflow.name!r} is started by the platform alone.")
        problem = misfit(workflow, wanted.input) if wanted.checked else None
        if problem is not None and wanted.key is None:
            raise problem
        run = await self._new(workflow, wanted)
        form = run["input"]
        try:
            if problem is not None:
                started = await self._began_before(run, problem)
            else:
                started = await self._by_flow(run, wanted, workflow.flow)
        except RequestError:
            await self._values.discard(form)
            raise
        if started.created:
            note(Metric.RUNS_STARTED)
            await self._keep_input(run, form)
        elif not started.joined:
            await self._values.discard(form)
        # Also a known one: whoever inserted it may have died before saying so.
        if nudge and started.run["lease"] is None:
            if started.run["due_at"] <= self._clock.now():
                await self._nudger.nudge([started.run["_id"]])
            elif started.run.get("gathers"):
                await self._nudger.ring(started.run["due_at"])
        return started

    async def take(self, wanted: Start) -> Started:
        """The same for a caller who advances the run at once: what he makes is begun and his by
        the insert itself, without claim and begin. A workflow without flow control only.

        Whoever dies with it leaves it as any slice does that dies before its first checkpoint.
        """
        workflow = self._registry.named(wanted.workflow, wanted.version)
        assert workflow.flow == Flow()
        run = await self._new(workflow, wanted)
        run |= {"status": Status.RUNNING.value, "started_at": run["created_at"]}
        lease = self._due.hold(run)
        run["slice"] = slice_history.begun(
            run,
            token=lease.token,
            now=run["created_at"],
            invocation=slice_history.this_invocation(),
        )
        try:
            started = await self._insert(run) or await self._known(run)
        except RequestError:
            await self._values.discard(run["input"])
            raise
        # Its lease is unique: an insert that was repeated because its answer was lost is ours.
        if started.run["lease"] != lease.token:
            await self._values.discard(run["input"])
            return started
        note(Metric.RUNS_STARTED)
        await self._keep_input(started.run, run["input"])
        return replace(started, created=True, claimed=Claimed(started.run, lease))

    async def _keep_input(self, run: Document, form: Any) -> None:
        """The input's chunks are the run's now. Should this not come: by its first slice."""
        if is_chunked(form):
            await self._values.take(form)
            if run.get("gathers"):
                return  # others may join it meanwhile, and the mark stands for theirs too
            taken = {"$unset": {"untaken": ""}}
            await guarded(self._due.collection.update_one({"_id": run["_id"]}, taken))
            run.pop("untaken", None)

    async def _by_flow(self, run: Document, wanted: Start, flow: Flow) -> Started:
        match flow.debounce or flow.batch or flow.singleton:
            case Debounce() as debounce:
                return await self._debounced(run, wanted, debounce)
            case Batch() as batch:
                return await self._batched(run, wanted, batch)
            case Singleton() as singleton:
                return await self._alone(run, wanted, singleton)
            case None:
                return await self._insert(run) or await self._known(run)

    async def bury(self, wanted: Start) -> Document:
        """The run under that key; if there is none, one that was cancelled before it was begun,
        so that nobody starts it any more."""
        workflow = self._registry.named(wanted.workflow, wanted.version)
        run = await self._new(workflow, wanted)
        now = self._clock.now()
        run |= {"status": Status.CANCELLED.value, "finished_at": now, "owes": ["retention"]}
        started = await self._insert(run) or await self._known(run)
        if not started.created:
            await self._values.discard(run["input"])
        return started.run

    async def _new(self, workflow: Workflow, wanted: Start) -> Document:
        level = workflow.priority if wanted.priority is None else wanted.priority
        if level not in list(Level):
            raise Unprocessable(f"There is no priority {level}; 0 is high, 1 normal, 2 low.")
        extra = _groups(workflow, wanted)
        run_id = new_ulid(self._clock)
        share = workflow.flow.batch.size if workflow.flow.batch else 1
        try:
            encoded = encode(wanted.input)
            form = await self._values.place(run_id, encoded, share=share)
        except Unserialisable as error:
            raise Unprocessable(f"The input cannot be kept: {error.detail}") from None
        extra["input_digest"] = _digest(workflow.name, encoded.form)
        if trace := carried():
            extra["trace"] = trace
        if is_chunked(form):
            extra |= {"left": [CHUNKS], "untaken": True}
        return new_run(
            id=run_id,
            key=wanted.key or run_id,
            workflow=workflow.name,
            version=workflow.version,
            client=wanted.client,
            input=form,
            now=self._clock.now(),
            priority=level,
            budget=wanted.budget,
            parent=wanted.parent,
            extra=extra,
        )

    async def _insert(self, run: Document) -> Started | None:
        """None: a unique index says that something of it is there already."""
        try:
            await guarded(self._due.collection.insert_one(run))
        except DuplicateKeyError:
            return None
        return Started(run, created=True)

    async def _began_before(self, run: Document, problem: Unprocessable) -> Started:
        """The run that the key started before: what is sent once more is told of it, although the
        schema was changed since."""
        found = await self._by_key(run)
        if found is None:
            raise problem
        return found

    async def _known(self, run: Document) -> Started:
        found = await self._by_key(run)
        if found is None:
            raise Unavailable("The run under this key was being deleted; try again.")
        return found

    async def _by_key(self, run: Document) -> Started | None:
        query = {"marks": marks.identity(run["client"], run["key"])}
        found = await guarded(self._due.collection.find_one(query))
        if found is None:
            return None
        same = (found["input_digest"], found["workflow"]) == (run["input_digest"], run["workflow"])
        # A child is named by its place in its parent, whatever a second try computed for it.
        if not same and run["parent"] is None and not found.get("gathered"):
            raise Conflict(
                f"The key {run['key']!r} stands for run {found['_id']} with another input.",
                fields={"run": found["_id"], "status": found["status"]},
            )
        # By its identity, with majority concern: what is answered must not be rolled back.
        durable = await read_winner(self._due.collection, found["_id"])
        return Started(durable or found, created=False)

    async def _alone(self, run: Document, wanted: Start, singleton: Singleton) -> Started:
        _hold(run, "one", _group(singleton.key, wanted))
        run["place"] = run["active_key"]  # for good: whoever takes it on after its end needs it
        for _ in range(_TRIES):
            if (started := await self._insert(run) or await self._by_key(run)) is not None:
                return started
            holder = await self._holder(run)
            if holder is None:
                continue
            if not singleton.replace:
                return Started(holder, created=False)
            await self._replace(holder)
        raise Unavailable("The run that is there could not be replaced; try again.")

    async def _replace(self, holder: Document) -> None:
        # One update: were the place freed first, two could run; were the cancel first, none might.
        mark, cancel = holder["active_key"], {"control": Control.CANCEL.value}
        freed: Document = {"$pullAll": {"marks": [mark]}, "$unset": {"active_key": ""}}
        active = {"marks": mark, "status": {"$in": [one.value for one in ACTIVE]}}
        parked = {"marks": mark, "status": {"$in": [one.value for one in PARKED]}}
        waiting = {**cancel, "status": Status.WAITING.value}
        wake, run_id = self._due.wake, holder["_id"]
        if await wake(run_id, set=cancel, where=active, also=freed) or await wake(
            run_id, set=waiting, where=parked, also=freed
        ):
            await self._nudger.nudge([run_id])

    async def _debounced(self, run: Document, wanted: Start, debounce: Debounce) -> Started:
        now = self._clock.now()
        until = now + timedelta(seconds=debounce.period_s)
        latest = now + timedelta(seconds=debounce.longest_s or debounce.period_s * 1000)
        own = self._gathers(run, "debounce", _group(debounce.key, wanted))
        run |= {"due_at": until, "latest_at": latest}
        for _ in range(_TRIES):
            if (started := await self._insert(run) or await self._gathered(run, own)) is not None:
                return started
            holder = await self._gatherer(run)
            if holder is None:
                continue
            changes: Document = {"input": run["input"], "due_at": min(until, holder["latest_at"])}
            update = {
                "$set": changes,
                "$push": {"marks": own},
                "$inc": {"signals": 1, "gathered": 1},
            }
            if await self._join(holder, run, update, form=run["input"]):
                return Started({**holder, **changes}, created=False, joined=True)
        raise Unavailable("The run to join kept changing; try again.")

    async def _batched(self, run: Document, wanted: Start, batch: Batch) -> Started:
        own = self._gathers(run, "batch", _group(batch.key, wanted))
        item, full = run["input"], batch.size <= 1
        run["input"] = [item]
        run["due_at"] = self._clock.now() + timedelta(seconds=0 if full else batch.timeout_s)
        if full:
            run["marks"].remove(run.pop("active_key"))
        for _ in range(_TRIES):
            if (started := await self._insert(run) or await self._gathered(run, own)) is not None:
                return started
            holder = await self._gatherer(run)
            if holder is None:
                continue
            if holder["gathered"] >= batch.size:
                await self._close(holder)
                continue
            changes: Document = {}
            update: Document = {
                "$push": {"marks": own, "input": item},
                "$inc": {"signals": 1, "gathered": 1},
            }
            if holder["gathered"] + 1 >= batch.size:
                # Full: due at once. Its place is freed by its begin, or by who comes next.
                changes = {"due_at": self._clock.now()}
                update["$set"] = changes
            if await self._join(holder, run, update, form=item):
                return Started({**holder, **changes}, created=False, joined=True)
        raise Unavailable("The batch to join kept changing; try again.")

    async def _close(self, holder: Document) -> None:
        """Free the place of a run that takes no more starts, so that the next one may gather.

        It goes on without: whoever dies after this has only made room.
        """
        mark = holder["active_key"]
        await guarded(
            self._due.collection.update_one(
                {"_id": holder["_id"], "marks": mark},
                {"$pullAll": {"marks": [mark]}, "$unset": {"active_key": ""}},
            )
        )

    def _gathers(self, run: Document, kind: str, group: str) -> str:
        """Make the run one that others join; the mark of its own start among them."""
        own = marks.gathered(run["client"], run["workflow"], run["key"])
        _hold(run, kind, group)
        run["marks"].append(own)
        run |= {"gathers": kind, "gathered": 1}
        return own

    async def _join(self, holder: Document, run: Document, update: Document, *, form: Any) -> bool:
        # Guarded by the signals that were read: each join counts them up, so none is overwritten,
        # and a slice that has just read the run begins it only if nobody joined since.
        guard = {
            "_id": holder["_id"],
            "marks": run["active_key"],
            **_JOINABLE,
            "signals": holder["signals"],
        }
        # Before it, so that the run never points at chunks that do not expire with it.
        await self._values.move(form, holder["_id"])
        if is_chunked(form):
            update.setdefault("$set", {})["untaken"] = True
        try:
            answer = await guarded(self._due.collection.update_one(guard, update))
            if answer.matched_count == 1:
                await self._values.take(form)
                return True
        except DuplicateKeyError:
            pass
        await self._values.move(form, run["_id"])
        return False

    async def _gathered(self, run: Document, own: str) -> Started | None:
        """The run that has this very start among those it gathered."""
        found = await guarded(self._due.collection.find_one({"marks": own}))
        return Started(found, created=False) if found is not None else None

    async def _gatherer(self, run: Document) -> Document | None:
        """The run that gathers for the group and can be joined; one that cannot gives way."""
        holder = await self._holder(run)
        if holder is None:
            return None
        found = {name: holder[name] for name in _JOINABLE}
        if found == _JOINABLE and holder["version"] == run["version"]:
            return holder
        # Parked, on its way back from there, about to be, or of code that may be gone by now: it
        # may rest for months, and the starts of its group must not.
        await self._close(holder)
        return None

    async def _holder(self, run: Document) -> Document | None:
        return await guarded(self._due.collection.find_one({"marks": run["active_key"]}))


def _groups(workflow: Workflow, wanted: Start) -> Document:
    """The groups whose slots and starts the run shares. Its start counts once it is numbered."""
    flow, found = workflow.flow, Document()
    if flow.concurrency is not None:
        group = _group(flow.concurrency.key, wanted)
        found["slot_group"] = slot_group(workflow, wanted.client, group)
        found["groups"] = [marks.slot_group(found["slot_group"])]
    if flow.rate_limit is not None:
        group = _group(flow.rate_limit.key, wanted)
        found["rate_group"] = slot_group(workflow, wanted.client, group)
    return found


def _group(key: Any, wanted: Start) -> str:
    try:
        return group_of(key, wanted.input)
    except Exception as error:
        # An author's function over a caller's input: the input lacks what the group needs.
        text = f"The input does not say which group it belongs to: {error!r}."
        raise RequestError(text) from None


def _hold(run: Document, kind: str, group: str) -> None:
    """Give the run, not yet inserted, the one place of its group."""
    run["active_key"] = marks.active(run["client"], run["workflow"], kind, group)
    run["marks"].append(run["active_key"])


def _digest(workflow: str, form: Any) -> str:
    whole = bson.encode({"workflow": workflow, "input": _in_order(form)})
    return hashlib.sha256(whole).hexdigest()


def _in_order(form: Any) -> Any:
    """The same value, its names sorted: what is sent once more may be built in another order."""
    if isinstance(form, dict):
        return {name: _in_order(form[name]) for name in sorted(form)}
    return [_in_order(one) for one in form] if isinstance(form, list) else form
