"""Pays what an ended run owes: its parent a wake, waiters its slot, the store an expiry."""

from __future__ import annotations

from datetime import timedelta

from lambent.clock import Clock
from lambent.due import Database, DueDocuments, Lease, Settled
from lambent.engine.config import EngineConfig, Nudger
from lambent.engine.flow import Gates
from lambent.engine.model import CHUNKS, ENDED, ENDED_IN, OPEN_WAITS, STEPS, Debt
from lambent.engine.transitions import Transitions
from lambent.errors import LeaseLost
from lambent.mongo import Document, guarded
from lambent.waits import WAITS, Waits


class Debts:
    """Each debt may be paid twice without harm, so dying between two of them costs nothing."""

    def __init__(
        self,
        mongo: Database,
        due: DueDocuments,
        *,
        transitions: Transitions,
        gates: Gates,
        waits: Waits,
        nudger: Nudger,
        clock: Clock,
        config: EngineConfig,
    ) -> None:
        self._mongo = mongo
        self._due = due
        self._transitions = transitions
        self._gates = gates
        self._waits = waits
        self._nudger = nudger
        self._clock = clock
        self._config = config

    async def pay(self, lease: Lease, run: Document) -> bool:
        """Pay all that the run owes, then settle it for the last time; or, where a command has
        taken it on already, let it begin its next epoch without debts.

        Raises LeaseLost. True: the run was settled; False: look at it again.
        """
        ended = run["status"] in ENDED
        woken = await self._pay_others(run)
        if ended and Debt.RETENTION in run["owes"]:
            if self._clock.monotonic_s() >= lease.ends_s:
                raise LeaseLost  # someone else has paid, and a command may have taken it on since
            await self._set_expiry(run)
        if not ended:
            if not await self._transitions.be_quit(lease, run):
                raise LeaseLost
            settled = Settled.SIGNALLED
        else:
            expire_at = run["finished_at"] + timedelta(seconds=self._config.retention_s)
            settled = await self._transitions.forget(lease, run, expire_at)
        if woken:
            await self._nudger.nudge(woken)
        if settled is Settled.LOST:
            await self._take_back(run)
            raise LeaseLost
        return settled is Settled.DONE

    async def pay_for_deletion(self, run: Document) -> None:
        """Pay all that a run owes which is being deleted, without its lease: whoever holds that
        may pay once more, but no command can take the run on any more."""
        woken = await self._pay_others(run)
        await self._set_expiry(run)
        if woken:
            await self._nudger.nudge(woken)

    async def _pay_others(self, run: Document) -> list[str]:
        """Pay its parent and its heirs; the runs that were woken."""
        woken: list[str] = []
        for debt in run["owes"]:
            match Debt(debt):
                case Debt.PARENT:
                    parent = run["parent"]["run"]
                    if await self._due.wake(parent):
                        woken.append(parent)
                case Debt.SLOT:
                    woken.extend(await self._gates.pass_on(run))
                case Debt.RETENTION:
                    pass
        return woken

    async def pay_after(self, run_id: str) -> None:
        """See to it that what a late owner wrote goes with its run as all else does; for that
        owner itself, when it has found that it is late."""
        left = {"$each": [STEPS, WAITS, CHUNKS, OPEN_WAITS]}
        runs = self._due.collection
        await guarded(runs.update_one({"_id": run_id}, {"$addToSet": {"left": left}}))
        # Read after that: who ends the run from here on finds it noted.
        run = await guarded(runs.find_one({"_id": run_id}))
        # Also while its debts are being paid: whoever pays may have passed this one already.
        if run is not None and run["status"] in ENDED:
            await self._set_expiry(run)
            await self._take_back(run)

    async def _set_expiry(self, run: Document) -> None:
        # Only now, and never at insertion: a run may last longer than any retention.
        left = set(run.get("left", ()))
        if OPEN_WAITS in left:
            await self._waits.close_run(run["_id"], up_to=run["epoch"])
        stay_s = self._config.retention_s + self._config.leftovers_s
        expire_at = run["finished_at"] + timedelta(seconds=stay_s)
        # With the epoch that ended, so that a late owner changes nothing of a later one.
        expiry = {"expire_at": expire_at, ENDED_IN: run["epoch"]}
        not_later = {"run": run["_id"], ENDED_IN: {"$not": {"$gt": run["epoch"]}}}
        for name in sorted(left & {STEPS, WAITS, CHUNKS}):
            await guarded(self._mongo.db[name].update_many(not_later, {"$set": expiry}))

    async def _take_back(self, run: Document) -> None:
        """The expiry that a late owner set, if the run goes on in a later epoch by now."""
        found = await guarded(self._due.collection.find_one({"_id": run["_id"]}, {"epoch": 1}))
        if found is None or found["epoch"] == run["epoch"]:
            return
        mine = {"run": run["_id"], ENDED_IN: run["epoch"]}
        for name in (STEPS, WAITS, CHUNKS):
            expiry = {"expire_at": "", ENDED_IN: ""}
            await guarded(self._mongo.db[name].update_many(mine, {"$unset": expiry}))
