"""Keeps on a run which slices had it last: since when, in which invocation, and how each ended.

Nothing is written for it alone. The begin of a slice puts `slice` down, and its settle moves that
to the end of `slices`, which nobody reads along with the run. Who dies leaves `slice` behind; the
next begin takes it along as dead, and its own settle records both. So each of these writes may be
repeated, and none of them has to know what the list holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from lambent.engine import under_way
from lambent.engine.model import SliceEnd
from lambent.mongo import Document
from lambent.telemetry import trail

MOST_SLICES: Final = 50
# Of one row of deaths: a run that gets on between them never becomes poison.
_MOST_DEAD: Final = 10
_LONGEST_NAME: Final = 64


def this_invocation() -> str:
    """Whose slice it is that begins now."""
    return trail().get("invocation") or trail().get("request_id", "")


def begun(run: Mapping[str, Any], *, token: str, now: datetime, invocation: str) -> Document:
    """What a begin under the lease `token` puts down as `slice`.

    A slice that is there under another lease died, if the run was claimed again before anybody
    settled it; else code of a version before settled it, which knows nothing of slices.
    """
    there = run.get("slice")
    if there is not None and there["token"] == token:
        return dict(there)  # the same slice begins once more, after a look at the run
    dead: list[Document] = []
    if there is not None and run["claims"] > 1:
        dead = [*there["dead"], _ended(run, now, SliceEnd.CRASHED)][-_MOST_DEAD:]
    return {
        "token": token,
        "at": now,
        "by": invocation[:_LONGEST_NAME],
        "epoch": run["epoch"],
        "dead": dead,
    }


def ended(run: Mapping[str, Any], *, token: str, now: datetime, end: SliceEnd) -> list[Document]:
    """What the settle under the lease `token` adds to `slices`: the dead, and the slice itself
    where it had begun."""
    there = run.get("slice")
    if there is None:
        return []
    own = end if there["token"] == token else SliceEnd.CRASHED
    return [*there["dead"], _ended(run, now, own)]


def _ended(run: Mapping[str, Any], now: datetime, end: SliceEnd) -> Document:
    # `until` of a dead one is when it was found: after its lease had lapsed, so too late.
    kept = {name: run["slice"][name] for name in ("at", "by", "epoch")}
    kept |= {"until": now, "end": end.value}
    if end is SliceEnd.CRASHED and (heard := under_way.heard(run)):
        kept["heard"] = heard
    return kept
