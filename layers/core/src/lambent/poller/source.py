"""Finds the due documents of one kind and nudges for them, within what the fleet can take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from lambent.clock import EPOCH, Clock
from lambent.dispatch import QUIET_S, Work
from lambent.due import LEASE_S, DueDocuments, DueId
from lambent.metrics import Metric, note
from lambent.mongo import guarded
from lambent.poller.generation import HORIZON, Nudges

LOOK_EVERY_S: Final = 1.0
# With more due than the fleet takes at once, room is looked for this often.
_ROOM_EVERY_S: Final = 0.1
# Sent so much early: a claim takes it ahead of time and waits the rest warm.
LEAD_S: Final = 0.1
# Further than to the next look, so that a slow look makes nothing late.
_AHEAD_S: Final = 2 * LOOK_EVERY_S
# How many ids are held at most: a bound on memory, whatever the backlog.
LOOK_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Fleet:
    """What may be in work at once: `functions` of them, each with a batch of `batch` ids."""

    functions: int
    batch: int

    @property
    def ids(self) -> int:
        return self.functions * self.batch


class Source:
    """One kind of due documents on the poller's round."""

    def __init__(
        self, work: Work, documents: DueDocuments, *, fleet: Fleet, nudges: Nudges, clock: Clock
    ) -> None:
        self.work = work
        self.documents = documents
        self._fleet = fleet
        self._nudges = nudges
        self._clock = clock
        self._waiting: deque[DueId] = deque()
        self._found_s = 0.0
        self._fresh_for_s = 0.0
        # When, by the monotonic clock. With its due time: an id that was settled since is due anew,
        # and a nudge for it is none that was sent.
        self._sent: dict[tuple[str, datetime], float] = {}
        self.most_held = 0

    async def look(self) -> float | None:
        """One look. The monotonic instant by which the next is worth it; None: not in a minute."""
        now_s = self._clock.monotonic_s()
        self._forget(now_s)
        if not self._waiting or now_s - self._found_s >= self._fresh_for_s:
            await self._find(now_s)
        ready = self._clock.now() + timedelta(seconds=LEAD_S)
        if self._waiting and self._waiting[0].due_at <= ready:
            await self._send(ready, await self._room())
            if self._waiting and self._waiting[0].due_at <= ready:
                return now_s + _ROOM_EVERY_S
        stale_s = self._found_s + self._fresh_for_s
        if self._waiting:
            return min(stale_s, self._instant_s(self._waiting[0].due_at))
        if self._sent:
            return stale_s
        next_at = await self.documents.next_due_at(self._clock.now() + HORIZON)
        return None if next_at is None else min(stale_s, self._instant_s(next_at))

    def _instant_s(self, due_at: datetime) -> float:
        early_s = (due_at - self._clock.now()).total_seconds() - LEAD_S
        return self._clock.monotonic_s() + early_s

    async def _find(self, now_s: float) -> None:
        found = await self.documents.find(LOOK_LIMIT, ahead_s=_AHEAD_S)
        # Sent or not: what is due and in nobody's hands waits.
        oldest_at = min((one.due_at for one in found), default=self._clock.now())
        note(Metric.DUE_LAG, max(0.0, (self._clock.now() - oldest_at).total_seconds()))
        ready = self._clock.now() + timedelta(seconds=LEAD_S)
        fresh = [one for one in found if (one.id, one.due_at) not in self._sent]
        # What is due comes by priority; what is only about to be, by its time.
        now_due = [one for one in fresh if one.due_at <= ready]
        soon = sorted((one for one in fresh if one.due_at > ready), key=lambda one: one.due_at)
        self._waiting = deque([*now_due, *soon])
        self._found_s = now_s
        self._fresh_for_s = LOOK_EVERY_S
        if len(found) == LOOK_LIMIT:
            # More waits than is held, and some servers read all that is due for each find: then
            # looking takes a tenth of the time. What is new would have to wait anyway.
            took_s = self._clock.monotonic_s() - now_s
            self._fresh_for_s = max(LOOK_EVERY_S, 10 * took_s)
        self.most_held = max(self.most_held, len(self._waiting))

    async def _room(self) -> int:
        """How many more ids the fleet takes: less those in work, and those sent but not begun."""
        now = self._clock.now()
        leased = {"$gt": now, "$lte": now + timedelta(seconds=2 * LEASE_S)}
        in_work = await guarded(
            self.documents.collection.count_documents(
                {"lease_until": leased}, limit=self._fleet.ids
            )
        )
        unclaimed = 0
        if self._sent:
            still_due = {
                "_id": {"$in": [one_id for one_id, _ in self._sent]},
                "due_at": {"$gte": EPOCH, "$lte": now + timedelta(seconds=LEAD_S)},
                "lease_until": {"$lte": now},
            }
            cursor = self.documents.collection.find(still_due, {"due_at": 1})
            left = await guarded(cursor.to_list())
            unclaimed = sum((one["_id"], one["due_at"]) in self._sent for one in left)
        return self._fleet.ids - in_work - unclaimed

    async def _send(self, ready: datetime, room: int) -> None:
        together: list[DueId] = []
        alone: list[DueId] = []
        while self._waiting and self._waiting[0].due_at <= ready:
            one = self._waiting[0]
            # One that goes alone takes a whole function to itself.
            room -= self._fleet.batch if one.alone else 1
            if room < 0 and (together or alone or not one.alone):
                break
            self._waiting.popleft()
            (alone if one.alone else together).append(one)
            if room < 0:
                break
        now_s = self._clock.monotonic_s()
        self._sent |= {(one.id, one.due_at): now_s for one in (*together, *alone)}
        # Told as news: what was sent, and for which due time, is kept here.
        await self._nudges.nudge(self.work, [one.id for one in together], news=True)
        for one in alone:
            await self._nudges.nudge(self.work, [one.id], news=True)

    def _forget(self, now_s: float) -> None:
        """Sent long ago and still due: the nudge was lost, so it may go out once more."""
        for sent, at_s in list(self._sent.items()):
            if now_s - at_s < QUIET_S:
                break
            del self._sent[sent]
