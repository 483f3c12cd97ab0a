"""Draws a run to scale: its slices in one band, and a lane for each step, in percent.

A step that is under way has its lane before it has a record, and keeps it then: both are of the
same epoch and order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from lambent.http.admin.formats import instant, took

_WAITS: Final = frozenset({"sleep", "wait", "callback", "until", "child", "result"})
_ENDED: Final = frozenset({"completed", "failed", "cancelled"})
_ENDED_STEPS: Final = frozenset({"completed", "failed", "tombstone", "closed", "satisfied"})
_UNDER_WAY: Final = "under way"
# What a recorded step has besides, and one that is not recorded has not.
_UNRECORDED: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("output", "error", "child", "started_at", "event")),
    **{"redacted": False, "tries": ()},
}
_MARKS: Final = 5
_NARROWEST: Final = 0.4
# More would be a page of lines; the table of slices has them all.
_MOST_CRASHES: Final = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a lane; `left` and `width` with their unit, `tone` a class of the style sheet."""

    left: str
    width: str
    tone: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One step: a bar for each attempt, and one from now to when it is due, if it waits. `since`:
    when the attempt that is under way began."""

    step: Mapping[str, Any]
    name: str
    branch: str
    indent: int
    bars: tuple[Bar, ...]
    took_s: float | None
    old: bool
    since: str | None


@dataclass(frozen=True, slots=True)
class Band:
    """One slice; `bar` None where it lies outside of what is drawn."""

    slice: Mapping[str, Any]
    bar: Bar | None
    took_s: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """`crashes` are drawn through all lanes, `pace` are places of records all over the run; `scale`
    and `whole` are the marks of the lanes and of the band above them."""

    lanes: tuple[Lane, ...]
    bands: tuple[Band, ...]
    crashes: tuple[Bar, ...]
    pace: tuple[str, ...]
    scale: tuple[str, ...]
    whole: tuple[str, ...]


def timeline(
    run: Mapping[str, Any],
    page: Mapping[str, Any],
    history: Mapping[str, Any],
    *,
    now: datetime,
) -> Timeline:
    """A page of a run's steps, in the order of beginning.

    Where the page holds all of them they share the scale of the run; else they have their own,
    for a hundredth of a long run would be one line.
    """
    steps: Sequence[Mapping[str, Any]] = _with_those_under_way(run, page)
    begun = instant(run["created_at"]) or now
    last = instant(run["finished_at"]) if run["status"] in _ENDED else now
    ends = [one for step in steps if (one := instant(step["finished_at"]))]
    whole = _Scale.of(begun, [last or now, *ends])
    scale = whole
    if page["total"] > len(page["steps"]) > 0:
        begins = [one for step in steps if (one := _begun(step))]
        still = [last or now] if page["cursor"] is None else []
        scale = _Scale.of(min(begins, default=begun), [*ends, *still])
    bands = [_band(one, whole, now=now) for one in history["slices"]]
    crashed = [one for one in bands if one.slice["end"] == "crashed"][-_MOST_CRASHES:]
    crashes = [bar for one in crashed if (bar := _bar(one.slice, scale, "dead", now=now))]
    # Nothing is on record while a run waits for a child: its result is, once it is there.
    awaited = {step["child"]: step["finished_at"] for step in steps if step["kind"] == "child"}
    return Timeline(
        lanes=tuple(_lane(run, _whole(step, awaited), scale, now=now) for step in steps),
        bands=tuple(bands),
        crashes=tuple(crashes),
        pace=tuple(whole.places(history["pace"])) if scale is not whole else (),
        scale=scale.marks(begun),
        whole=whole.marks(begun),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    begun: datetime
    seconds: float

    @classmethod
    def of(cls, begun: datetime, ends: Iterable[datetime]) -> _Scale:
        end = max([*ends, begun + timedelta(milliseconds=1)])
        return cls(begun, (end - begun).total_seconds())

    def place(self, at: datetime) -> float:
        share = (at - self.begun).total_seconds() / self.seconds * 100
        return min(100.0, max(0.0, share))

    def places(self, instants: Iterable[str | None]) -> list[str]:
        """Those that are within it, each once."""
        inside = [
            at
            for text in instants
            if (at := instant(text)) and 0 <= (at - self.begun).total_seconds() <= self.seconds
        ]
        return list(dict.fromkeys(f"{self.place(at):.2f}%" for at in inside))

    def bar(self, begins: datetime, ends: datetime, tone: str) -> Bar:
        left, right = self.place(begins), self.place(ends)
        width = max(right - left, _NARROWEST)
        return Bar(f"{min(left, 100 - width):.2f}%", f"{width:.2f}%", tone)

    def marks(self, zero: datetime) -> tuple[str, ...]:
        first_s = (self.begun - zero).total_seconds()
        places = [first_s + self.seconds * place / (_MARKS - 1) for place in range(_MARKS)]
        return tuple("0" if one <= 0 else took(one) for one in places)


def _band(one: Mapping[str, Any], scale: _Scale, *, now: datetime) -> Band:
    tone = str(one["end"] or "running").replace(" ", "-")
    begins, ends = instant(one["started_at"]) or now, instant(one["ended_at"]) or now
    # When a crashed slice ended nobody knows: it is only found after its lease has lapsed.
    known = one["ended_at"] is not None and one["end"] != "crashed"
    seconds = (ends - begins).total_seconds() if known or one["end"] is None else None
    return Band(one, _bar(one, scale, tone, now=now), seconds)


def _bar(one: Mapping[str, Any], scale: _Scale, tone: str, *, now: datetime) -> Bar | None:
    begins, ends = instant(one["started_at"]) or now, instant(one["ended_at"]) or now
    first_s = (begins - scale.begun).total_seconds()
    last_s = (ends - scale.begun).total_seconds()
    outside = first_s > scale.seconds or last_s < 0
    return None if outside else scale.bar(begins, ends, tone)


def _with_those_under_way(
    run: Mapping[str, Any], page: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """The steps of the page, and on the last page those that have no record yet."""
    going = {(one["epoch"], one["order"]): one for one in run["under_way"]}
    shown: list[Mapping[str, Any]] = []
    for step in page["steps"]:
        one = going.pop((step["epoch"], step["order"]), None)
        over = step["status"] in _ENDED_STEPS  # meanwhile: it was read after the run
        shown.append(step if one is None or over else {**step, **_going(one)})
    if page["cursor"] is None:
        shown += [{**_UNRECORDED, **_going(one)} for one in going.values()]
    return sorted(shown, key=lambda step: (step["epoch"], step["order"]))


def _going(one: Mapping[str, Any]) -> dict[str, Any]:
    """What of a step is known while an attempt of it goes on."""
    told = {"key": one["step"], "attempts": one["attempt"], "since": one["started_at"]}
    told |= {name: one[name] for name in ("kind", "epoch", "order")}
    return {**told, "status": _UNDER_WAY, "finished_at": None, "wake_at": None}


def _whole(step: Mapping[str, Any], awaited: Mapping[str, str]) -> Mapping[str, Any]:
    if step["kind"] == "result" and step["started_at"] is None and step["child"] in awaited:
        return {**step, "started_at": awaited[step["child"]]}
    return step


def _begun(step: Mapping[str, Any]) -> datetime | None:
    return instant(step["started_at"]) or instant(step["finished_at"]) or instant(_since(step))


def _since(step: Mapping[str, Any]) -> str | None:
    since: str | None = step.get("since")
    return since


def _lane(run: Mapping[str, Any], step: Mapping[str, Any], scale: _Scale, *, now: datetime) -> Lane:
    finished = instant(step["finished_at"])
    started = _begun(step) or scale.begun
    going = finished is None and step["status"] not in _ENDED_STEPS and run["status"] not in _ENDED
    until = finished or (now if going else started)
    waits = step["kind"] in _WAITS
    tone = "wait" if waits and step["status"] != "failed" else str(step["status"])
    if step["kind"] == "sleep" and (woken := instant(step["wake_at"])) is not None:
        # On record when it begins; over when its time has come.
        until = min(woken, max(now, started)) if run["status"] not in _ENDED else woken
        finished, going = (woken, False) if woken <= now else (None, True)
    since = instant(_since(step)) if going else None
    tone = "running" if since is not None else tone
    bars = _attempts(step, scale, since=since) or [scale.bar(started, until, tone)]
    if since is not None and step["tries"]:
        bars.append(scale.bar(since, now, tone))
    wake = instant(step["wake_at"])
    if going and wake is not None and wake > now and scale.place(now) < 100:
        bars.append(scale.bar(now, wake, "ahead"))
    *branch, name = step["key"].split("/")
    return Lane(
        step=step,
        name=name,
        branch="/".join(branch),
        indent=min(len(branch), 3),
        bars=tuple(bars),
        took_s=(until - started).total_seconds() if finished or going else None,
        old=step["epoch"] < run["epoch"],
        since=_since(step) if going else None,
    )


def _attempts(
    step: Mapping[str, Any], scale: _Scale, *, since: datetime | None = None
) -> list[Bar]:
    """A bar each, where there were several; what is between them is rest, also up to `since`."""
    found: list[Bar] = []
    for one in step["tries"]:
        begins = instant(one["started_at"]) or scale.begun
        tone = "failed" if one["error"] else "completed"
        found.append(scale.bar(begins, begins + timedelta(seconds=one["took_s"]), tone))
    if found:
        first = instant(step["tries"][0]["started_at"]) or scale.begun
        last = step["tries"][-1]
        ends = (instant(last["started_at"]) or first) + timedelta(seconds=last["took_s"])
        ends = max(ends, instant(step["finished_at"]) or ends, since or ends)
        found.insert(0, scale.bar(first, ends, "rest"))
    return found
