"""Says which steps of a run are under way, before anything of them is on record.

Nothing is written for it alone. Whoever holds a run renews its lease anyway; the renewal names the
attempts that go on at that moment, and how much is on record, in `under_way` on the run document.
Where either changed, the renewal is brought forward, at most once in two seconds: so a step costs
no write of its own, a short one is not seen, and a long one is seen within two seconds.

Nobody decides anything by it. It is true only as long as the lease lives under which it was told,
and of what it names only what has no later record: a step may have ended since. A settle and a
begin take it away; that of a slice that died goes along with it (`slice_history`), as the last
that was heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from lambent.engine.model import FINAL, Status, StepStatus, record_id
from lambent.mongo import Document

if TYPE_CHECKING:
    from lambent.engine.journal import Journal

MOST_NAMED: Final = 16


class UnderWay:
    """The attempts that go on in one pass: kept by its event loop, read by the keeper's thread."""

    def __init__(self) -> None:
        self._going: dict[str, Document] = {}

    @contextmanager
    def attempt(self, key: str, **told: Any) -> Iterator[None]:
        """While inside, an attempt of the step goes on, or its outcome is being put on record."""
        # A surrogate in it must not end the thread that renews everybody's leases.
        self._going[key] = {"key": key.encode("utf-8", "replace").decode(), **told}
        try:
            yield
        finally:
            self._going.pop(key, None)

    def first(self) -> list[Document]:
        """Those that go on longest. For another thread: a copy is taken at one stroke."""
        return list(islice(self._going.copy().values(), MOST_NAMED))


def news(journal: Journal | None, token: str) -> Document:
    """What a renewal of the lease `token` writes down besides; nothing where there is nothing."""
    if journal is None:
        return {}
    steps = journal.under_way.first()
    if not steps and not journal.fresh:
        return {}
    told = {"token": token, "epoch": journal.epoch, "recorded": journal.count, "steps": steps}
    return {"under_way": told}


def heard(run: Mapping[str, Any]) -> list[str]:
    """The keys of what was under way when the run's last slice was last heard of."""
    told, there = run.get("under_way"), run.get("slice")
    if not told or there is None or told["token"] != there["token"]:
        return []
    return [one["key"] for one in told["steps"]]


def told(run: Mapping[str, Any], *, now: datetime) -> Mapping[str, Any] | None:
    """What the slice that has the run said last, if it lives."""
    found = run.get("under_way")
    if not found or run["status"] != Status.RUNNING or run["epoch"] != found["epoch"]:
        return None
    lives = run["lease"] == found["token"] and run["lease_until"] > now
    return found if lives else None


def still(
    run: Mapping[str, Any], steps: Sequence[Document], records: Mapping[str, Document]
) -> list[Document]:
    """Those that go on, as far as their records, by `_id` and read after the run, can tell."""
    return [one for one in steps if _goes_on(one, records.get(record_id(run, one)))]


def _goes_on(step: Document, record: Document | None) -> bool:
    if record is None:
        return True
    if record["status"] in FINAL:
        return False
    # An attempt that failed put its rest on record; the next begins after that.
    rests = record["status"] == StepStatus.RETRYING
    return not rests or step["at"] >= record["retry_at"]
