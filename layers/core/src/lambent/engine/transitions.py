"""Every state change of a run; each is one compare-and-set.

A slice's changes are guarded by its lease token: a late owner changes nothing. A command's changes
are guarded by the status that allows them, and count `signals` up, so that the slice that has the
run looks again. See `lambent.engine` for the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lambent.clock import EPOCH, FAR_FUTURE, Clock
from lambent.due import DueDocuments, Lease, Settled
from lambent.engine import marks, obeyed, slice_history
from lambent.engine.config import EngineConfig
from lambent.engine.documents import Cut, new_cut, place_among_children
from lambent.engine.model import (
    ACTIVE,
    CHUNKS,
    ENDED,
    GOING_ON,
    OPEN_WAITS,
    PARKED,
    STEPS,
    Control,
    Debt,
    Reason,
    Status,
)
from lambent.engine.run_log import MOST_LINES
from lambent.engine.slice_history import MOST_SLICES
from lambent.mongo import Document, guarded
from lambent.waits import WAITS

_ACTIVE = [status.value for status in ACTIVE]
_STOPPED = [status.value for status in (*ENDED, *PARKED)]
# What a run holds that others wait for; let go in the update that ends it.
_HELD = ("slot_key", "slot_wait", "active_key")


@dataclass(frozen=True, slots=True)
class Noted:
    """What a settle writes down besides the state: fields to set, and items to add to lists that
    are not read with the run, each list bounded."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    slices: Sequence[Document] = ()
    lines: Sequence[Document] = ()

    @property
    def added(self) -> Document:
        pushed: Document = {}
        if self.slices:
            pushed["slices"] = {"$each": list(self.slices), "$slice": -MOST_SLICES}
        if self.lines:
            pushed["log"] = {"$each": list(self.lines), "$slice": -MOST_LINES}
        return {"$push": pushed} if pushed else {}


class Transitions:
    """The writes to run documents; nothing else in the engine writes a run's status."""

    def __init__(self, due: DueDocuments, *, clock: Clock, config: EngineConfig) -> None:
        self._due = due
        self._clock = clock
        self._config = config

    # By the slice that holds the lease

    async def begin(
        self, lease: Lease, run: Document, *, records: int | None = None, invocation: str = ""
    ) -> bool:
        """pending, waiting, running or blocked (no code) → running.

        `records`, given after a lapse: what is recorded now; more than at the last settle means
        that the dead slice got on, so its death does not count. `invocation`: whose slice it is.
        """
        now = self._clock.now()
        changes: Document = {
            "status": Status.RUNNING.value,
            "blocked": None,
            "untidy": False,
            "slice": slice_history.begun(run, token=lease.token, now=now, invocation=invocation),
        }
        if run.get("under_way"):
            changes["under_way"] = None
        if run["started_at"] is None:
            changes["started_at"] = now
        if records is not None and records > run["records"]:
            changes |= {"claims": 1, "records": records}
        update: Document = {"$set": changes}
        guard: Document = {"status": {"$in": [*_ACTIVE, Status.BLOCKED.value]}}
        if run.get("gathers"):
            # A start that is debounced or batched may still change the input: what was read must
            # be what begins, and from here on the next start makes a run of its own.
            guard["signals"] = run["signals"]
            changes["gathers"] = None
            update["$unset"] = {"active_key": ""}
            update["$pullAll"] = {"marks": [run["active_key"]] if "active_key" in run else []}
        # A first begin must last: a run without it counts as one that did nothing yet. A later one
        # only shows that the run is in hand.
        first = run["started_at"] is None or bool(run.get("gathers"))
        done = await self._due.write(lease, update, where=guard, lasting=first)
        if done:
            run.update(changes)
        return done

    async def suspend(
        self, lease: Lease, due_at: datetime, *, seen_signals: int, noted: Noted
    ) -> Settled:
        """running → waiting, until `due_at` or a wake."""
        return await self._due.settle(
            lease,
            due_at=due_at,
            seen_signals=seen_signals,
            set={**noted.fields, "status": Status.WAITING.value},
            also=noted.added,
        )

    async def hold(
        self, lease: Lease, due_at: datetime, *, seen_signals: int, set: Mapping[str, Any]
    ) -> Settled:
        """Give it back unbegun (no slot, no start free yet), in the status that it has."""
        return await self._due.settle(lease, due_at=due_at, seen_signals=seen_signals, set=set)

    async def pause(self, lease: Lease, *, seen_signals: int, noted: Noted) -> Settled:
        """Any active status → paused, obeying `control: pause`."""
        return await self._due.settle(
            lease,
            due_at=FAR_FUTURE,
            seen_signals=seen_signals,
            set={**noted.fields, "status": Status.PAUSED.value, "control": None},
            where={"control": Control.PAUSE.value},
            also=noted.added,
        )

    async def block(
        self,
        lease: Lease,
        reason: Reason,
        detail: str,
        *,
        seen_signals: int,
        noted: Noted,
        due_at: datetime = FAR_FUTURE,
        tries: int = 0,
    ) -> Settled:
        """Any active status → blocked. Only `no code` has a due time."""
        blocked: Document = {"reason": reason.value, "detail": detail[:4000], "tries": tries}
        blocked["at"] = self._clock.now()
        return await self._due.settle(
            lease,
            due_at=due_at,
            seen_signals=seen_signals,
            set={**noted.fields, "status": Status.BLOCKED.value, "blocked": blocked},
            also=noted.added,
        )

    async def decide(
        self, lease: Lease, run: Document, status: Status, error: Document | None
    ) -> bool:
        """Fix how the run will end before the first undo: a later slice must not change its mind,
        and a cancel that comes later must not either.

        Nobody but the owner decides, and a repetition after a lost acknowledgement says the same;
        but a write that comes late must not decide about the next epoch.
        """
        ending = {"status": status.value, "error": error, "at": self._clock.now()}
        changes: Document = {"ending": ending, "control": None}
        done = await self._due.write(lease, {"$set": changes}, where={"epoch": run["epoch"]})
        if done:
            run.update(changes)
        return done

    async def end(
        self,
        lease: Lease,
        run: Document,
        status: Status,
        *,
        output: Any = None,
        error: Document | None = None,
        noted: Noted,
        left: Sequence[str] = (),
    ) -> bool:
        """Any active status → completed, failed or cancelled, with all debts, still due.

        Keeps the lease, to pay at once; whoever dies leaves the debts to the next claim. `left`:
        where there is something of the run (`Journal.left`).
        """
        changes = {
            **noted.fields,
            "status": status.value,
            "output": output,
            "error": error,
            "control": None,
            "blocked": None,
            "finished_at": self._clock.now(),
            "due_at": self._clock.now(),
            "owes": debts_of(run),
        }
        update: Document = {"$set": changes, **_let_go(run), **noted.added}
        if left:
            update["$addToSet"] = {"left": {"$each": left}}
        # With the epoch: once it has ended, a command may take it to the next one at any moment,
        # and that one is not to be ended by a repetition of this write.
        where = {"status": {"$nin": [one.value for one in ENDED]}, "epoch": run["epoch"]}
        if await self._due.write(lease, update, where=where):
            run.update(changes, left=[*run.get("left", ()), *left])
            return True
        # Only the owner ends a run that it holds: ended under this lease, or even taken on from
        # there, means that this write was done and only its acknowledgement was lost.
        found = await self._due.own(lease)
        if found is None or (found["epoch"] == run["epoch"] and found["status"] not in ENDED):
            return False
        _replace(run, found)
        return True

    async def forget(self, lease: Lease, run: Document, expire_at: datetime) -> Settled:
        """The last settle: every debt is paid. SIGNALLED: a command has taken the run on."""
        return await self._due.settle(
            lease,
            due_at=FAR_FUTURE,
            seen_signals=None,
            set={"owes": [], "expire_at": expire_at},
            where={"status": run["status"], "epoch": run["epoch"]},
        )

    async def be_quit(self, lease: Lease, run: Document) -> bool:
        """Active, taken on by a command before the debts of its last end were paid → without
        debts."""
        done = await self._due.write(lease, {"$set": {"owes": []}}, where={"epoch": run["epoch"]})
        if done:
            run["owes"] = []
        return done

    async def continue_as_new(self, lease: Lease, run: Document, input: Any, spent: int) -> bool:
        """The next epoch, with an empty journal; what was recorded stays where it is."""
        epoch = run["epoch"] + 1
        changes = {
            "epoch": epoch,
            "base_epoch": epoch,
            "cuts": [],
            "input": input,
            "spent": spent,
            "spent_before": spent,
            "said": None,
            "records": 0,
            "idle": 0,
            "claims": 1,
        }
        # With the epoch: a write that comes late must not take it back from a later one.
        done = await self._due.write(lease, {"$set": changes}, where={"epoch": run["epoch"]})
        if not done:
            # A running run is taken to the next epoch by its owner alone: this write, then, of
            # which the acknowledgement was lost.
            found = await self._due.own(lease)
            done = found is not None and found["epoch"] == epoch == found["base_epoch"]
        if done:
            run.update(changes)
        return done

    async def report(self, lease: Lease, progress: Document) -> bool:
        """Show how far the run is."""
        return await self._due.write(lease, {"$set": {"progress": progress}})

    # By commands, from anywhere

    # `by`: the token of a request that may come again; see `obeyed`.

    async def ask_cancel(self, run_id: str, *, by: str | None = None) -> bool:
        """Active: `control` is set and the run woken. Parked: waiting, due at once."""
        asked = {"control": Control.CANCEL.value}
        if await self._command(run_id, asked, self._due.kind.wakeable, by):
            return True
        changes = {"control": Control.CANCEL.value, "status": Status.WAITING.value}
        # A run that was ending already when it got stuck is only let end, in `end_stuck`.
        where = {"status": {"$in": [status.value for status in PARKED]}, "ending": None}
        return await self._command(run_id, changes, where, by)

    async def ask_cancel_children(self, parent: str) -> list[str]:
        """Ask every run that this one started for a cancel; those that are not over yet."""
        going_on = [status.value for status in GOING_ON]
        born = {"$gte": place_among_children(parent, ""), "$lt": place_among_children(parent, "~")}
        query = {"child_of": born, "status": {"$in": going_on}}
        found = await guarded(self._due.collection.find(query, {"_id": 1}).to_list())
        return [child["_id"] for child in found if await self.ask_cancel(child["_id"])]

    async def end_stuck(self, run: Document, *, by: str | None = None) -> bool:
        """blocked while it was being undone → what it was to end as, without the rest of it."""
        now = self._clock.now()
        why = run["ending"]["error"] or {"type": "Cancelled", "message": "It was cancelled."}
        changes = {
            "status": run["ending"]["status"],
            "error": {**why, "undo_skipped": True},
            "control": None,
            "blocked": None,
            "finished_at": now,
            "due_at": now,
            "owes": debts_of(run),
            "left": [STEPS, WAITS, CHUNKS, OPEN_WAITS],
        }
        where = {"_id": run["_id"], "status": Status.BLOCKED.value, "epoch": run["epoch"]}
        update = {"$set": changes, "$inc": {"signals": 1}, **_let_go(run), **obeyed.noted(by)}
        answer = await guarded(self._due.collection.update_one(where, update))
        return answer.matched_count == 1

    async def ask_pause(self, run_id: str, *, by: str | None = None) -> bool:
        """Active, and not being cancelled: `control` is set and the run woken."""
        where = {
            "status": {"$in": _ACTIVE},
            "control": {"$ne": Control.CANCEL.value},
            "ending": None,
        }
        return await self._command(run_id, {"control": Control.PAUSE.value}, where, by)

    async def resume(
        self, run_id: str, *, budget: int | None = None, by: str | None = None
    ) -> bool:
        """Parked → waiting, due at once; active with a pause asked for → the pause is off."""
        changes: Document = {"control": None}
        if budget is not None:
            changes["budget"] = budget
        asked = {"status": {"$in": _ACTIVE}, "control": Control.PAUSE.value}
        if await self._command(run_id, changes, asked, by):
            return True
        changes |= {"status": Status.WAITING.value, "blocked": None, "idle": 0}
        parked = {"status": {"$in": [status.value for status in PARKED]}}
        return await self._command(run_id, changes, parked, by)

    async def _command(
        self, run_id: str, changes: Document, where: Mapping[str, Any], by: str | None
    ) -> bool:
        """Change the run and wake it, once for this token."""
        guard = {**where, **obeyed.not_yet(by)}
        return await self._due.wake(run_id, set=changes, where=guard, also=obeyed.noted(by))

    async def raise_epoch(
        self,
        run: Document,
        *,
        cut: Cut | None,
        afresh: bool,
        by: str | None = None,
    ) -> bool:
        """Ended or parked → waiting in the next epoch: one guarded update, nothing deleted.

        What an ended run still owes stays owed, and whoever is about to pay it keeps the lease:
        the debts are paid before the next epoch begins.
        `cut`: from where on nothing is kept; `afresh`: nothing is kept at all. Raises
        `DuplicateKeyError` where the place of a singleton is another run's by now.
        """
        epoch = run["epoch"] + 1
        now = self._clock.now()
        changes: Document = {
            "status": Status.WAITING.value,
            "epoch": epoch,
            "control": None,
            "blocked": None,
            "ending": None,
            "output": None,
            "error": None,
            "finished_at": None,
            "due_at": now,
            "records": 0,
            "idle": 0,
            "again": None,
            "said": None,
            "untidy": True,  # what the last epoch left is put in order by the next slice
        }
        if afresh:
            # The steps that are left behind are not read any more; what they spent was spent.
            changes |= {"base_epoch": epoch, "cuts": [], "spent_before": run["spent"]}
        elif cut is not None:
            changes["cuts"] = [*run["cuts"], new_cut(run["epoch"], cut.order, cut.key)]
            if cut.child is not None:
                child, of_epoch = cut.child
                changes["again"] = {"run": child, "epoch": of_epoch}
        where: Document = {"_id": run["_id"], "epoch": run["epoch"], "status": run["status"]}
        where |= {"deleting": None, "spent": run["spent"]}
        if run["status"] not in ENDED:
            # Whoever has a parked run in hand (its code may be there by now, or the owner died)
            # has begun nothing: it is taken from him, who knows the epoch, and writes no more.
            changes |= {"lease": None, "lease_until": EPOCH, "claims": 0}
        update: Document = {
            "$set": changes,
            "$inc": {"signals": 1},
            "$unset": {"expire_at": ""},
            **obeyed.noted(by),
        }
        added: Document = {}
        if run.get("slot_group"):
            added["groups"] = marks.slot_group(run["slot_group"])
        if place := run.get("place"):
            # In this very update: were it taken before or after, two could run, or none might.
            changes["active_key"] = added["marks"] = place
        if added:
            update["$addToSet"] = added
        answer = await guarded(self._due.collection.update_one(where, update))
        return answer.matched_count == 1

    async def doom(self, run: Document) -> bool:
        """Ended, with debts → being deleted: nobody takes it on any more, so that whoever
        deletes it may pay them."""
        where = {"_id": run["_id"], "epoch": run["epoch"], "status": run["status"]}
        update = {"$set": {"deleting": True}}
        answer = await guarded(self._due.collection.update_one(where, update))
        return answer.matched_count == 1

    def no_code_until(self, tries: int) -> datetime:
        """When to look again for code that is not deployed: doubling from 5 s to 5 minutes."""
        rest_s = min(self._config.no_code_retry_s, 5.0 * 2 ** min(tries, 10))
        return self._clock.now() + timedelta(seconds=rest_s)


def _replace(run: Document, found: Document) -> None:
    """Make the run what was found, also where a field is gone."""
    run.clear()
    run.update(found)


def _let_go(run: Mapping[str, Any]) -> Document:
    update: Document = {"$unset": dict.fromkeys(_HELD, "")}
    pulled: Document = {}
    if kept := marks.held(run):
        pulled["marks"] = kept
    if run.get("slot_group"):
        # A start stays counted; a slot's groups are only of those who have or want one.
        group = run["slot_group"]
        pulled["groups"] = [marks.slot_group(group), marks.slot_holders(group)]
    if pulled:
        update["$pullAll"] = pulled
    return update


def debts_of(run: Mapping[str, Any]) -> list[str]:
    """What this run owes once it has ended."""
    owed = [Debt.RETENTION]
    if run.get("parent"):
        owed.append(Debt.PARENT)
    if run.get("slot_group"):
        owed.append(Debt.SLOT)
    return [debt.value for debt in owed]
