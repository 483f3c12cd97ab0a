"""Makes identifiers: ULIDs for documents and random secrets for keys."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from lambent.clock import EPOCH, FAR_FUTURE, Clock

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LATEST_MS = int(FAR_FUTURE.timestamp() * 1000)
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_ulid(clock: Clock) -> str:
    """A ULID: 26 characters, 48 bits of milliseconds since 1970, then 80 random bits.

    Sorts by time of creation to the millisecond. Source: github.com/ulid/spec.
    """
    milliseconds = int(clock.now().timestamp() * 1000)
    number = (milliseconds << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def ulid_time(id: str) -> datetime:
    """When a ULID was made; 1970 for what is none."""
    if len(id) != 26 or not set(id) <= set(_CROCKFORD) or id[0] > "7":
        return EPOCH
    return EPOCH + min(timedelta(milliseconds=_milliseconds(id[:10])), FAR_FUTURE - EPOCH)


def ulid_floor(at: datetime) -> str:
    """The smallest id that a document made at this instant may have."""
    number = max(0, int(at.timestamp() * 1000))
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(45, -1, -5))


def ulid_instant(id: str) -> datetime | None:
    """When the document of this id was made; None for an id that tells no instant."""
    begin = id[:10]
    if len(begin) < 10 or not set(begin) <= set(_CROCKFORD):
        return None
    number = _milliseconds(begin)
    return None if number > _LATEST_MS else EPOCH + timedelta(milliseconds=number)


def _milliseconds(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 32 + _CROCKFORD.index(letter)
    return number


def random_base62(length: int) -> str:
    """`length` characters of 0-9A-Za-z from the system's random source (5.95 bits each)."""
    return "".join(secrets.choice(_BASE62) for _ in range(length))
