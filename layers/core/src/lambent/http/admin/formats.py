"""Writes values for people: instants, durations, JSON, states and query strings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

from markupsafe import escape

from lambent.clock import Clock

# A page has to stay light; the API has the whole value.
_LONGEST_SHOWN: Final = 8_000

_TONES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("completed", "delivered", "closed", "active", "ok", "200s"), "good"),
    **dict.fromkeys(("failed", "dead", "tombstone", "revoked", "gone", "crashed", "error"), "bad"),
    **dict.fromkeys(("blocked", "half_open", "retrying", "expired", "disabled"), "warn"),
    **dict.fromkeys(("terminated", "out of time", "warning", "timed out"), "warn"),
    **dict.fromkeys(("satisfied", "ended"), "good"),
    **dict.fromkeys(("running", "under way", "pending", "marked"), "busy"),
}


def formats(clock: Clock) -> dict[str, Callable[..., Any]]:
    """The filters of the templates, by name."""
    return {
        "ago": lambda text: ago(text, now=clock.now()),
        "pretty": pretty,
        "brief": brief,
        "tone": lambda text: _TONES.get(str(text), ""),
        "spaced": lambda text: str(text).replace("_", " "),
        "short": lambda text: f"…{str(text)[-8:]}" if len(str(text)) > 12 else str(text),
        "segment": lambda text: quote(str(text), safe=""),
        "took": took,
        "since": since,
        "passed": lambda text: passed(text, now=clock.now()),
        "count": count,
        "minute": minute,
        "utc": lambda text: on_the_clock(datetime.fromisoformat(text).astimezone(UTC)),
        "with": with_query,
        "without": without_query,
    }


def count(number: float) -> str:
    """With commas; a whole number without a fraction, whatever its type."""
    return f"{int(number) if number == int(number) else number:,}"


def instant(text: str | None) -> datetime | None:
    """An instant of the API's JSON."""
    if not text:
        return None
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def ago(text: str | None, *, now: datetime) -> str:
    """How long ago, or how far ahead, in the largest unit that says enough."""
    at = instant(text)
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    size = span(abs(seconds))
    return f"{size} ago" if seconds > 0 else f"in {size}"


def passed(text: str, *, now: datetime) -> str:
    """How much time has passed since then; `live.js` goes on counting."""
    at = instant(text)
    return "" if at is None else span(max(0.0, (now - at).total_seconds()))


def span(seconds: float) -> str:
    """One unit: 45 s, 12 min, 3 h, 5 d."""
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def since(text: str, begun: str) -> str:
    """How long after the beginning, as in +1.2 s."""
    at, zero = instant(text), instant(begun)
    if at is None or zero is None:
        return ""
    return f"+{took(max(0.0, (at - zero).total_seconds()))}"


def took(seconds: float | None) -> str:
    """A duration, with as many figures as it deserves."""
    if seconds is None:
        return ""
    # Rounded before it is taken apart: there is no 1000 ms and no 4 m 60 s.
    if (ms := round(seconds * 1000)) < 1000:
        return f"{ms} ms"
    if (tenths := round(seconds * 10)) < 600:
        return f"{tenths / 10:.1f} s"
    if (whole := round(seconds)) < 3600:
        return f"{whole // 60} m {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} m"


def pretty(value: Any, most: int = _LONGEST_SHOWN) -> str:
    """JSON for reading; long values are cut, and say so."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > most:
        return f"{text[:most]}\n… {len(text) - most:,} more characters; the API has them."
    return text


def brief(text: str, room: int = 200) -> str:
    """As much of the beginning as a list has room for, in bytes as they are written into a page.

    The page that the row leads to has the whole.
    """
    kept = text
    while len(escape(kept).encode()) > room:
        kept = kept[: len(kept) * 3 // 4]
    return kept if kept == text else f"{kept}…"


def on_the_clock(at: datetime) -> str:
    """An instant as a clock and a calendar at its place show it; `local.js` writes the same."""
    return f"{at:%a}, {at.day} {at:%b %Y, %H:%M:%S}"


def minute(text: str) -> str:
    """An instant or a day of a query, as a time field takes it."""
    return f"{text}T00:00" if len(text) == 10 else text[:16]


def a_day_before(now: datetime) -> str:
    """Since when the ended runs of the last day are, to the minute, as pages put it into links."""
    return f"{now - timedelta(days=1):%Y-%m-%dT%H:%M}"


def with_query(query: Mapping[str, Any], **changed: Any) -> str:
    """The query string with some values changed."""
    return urlencode({k: v for k, v in {**query, **changed}.items() if v not in (None, "")})


def without_query(query: Mapping[str, Any], name: str) -> str:
    """The query string without one value."""
    return urlencode({k: v for k, v in query.items() if k != name and v not in (None, "")})


def utc_of(text: str) -> str:
    """The instant that a date field's day, or a time field's minute, stands for in UTC.

    What looks like neither is left to the API, which says what is wrong with it.
    """
    if len(text) == 10 and text[4] == text[7] == "-":
        return f"{text}T00:00:00Z"
    return f"{text}Z" if len(text) in (16, 19) and text[10] == "T" else text
