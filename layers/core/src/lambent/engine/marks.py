"""Names what only one run may hold: one array of marks, under one unique index.

A mark is a run's identity, a concurrency slot, a start under a rate limit, the place of a
singleton or of a run that gathers others, or a start that was gathered. One index for them all:
a server pays for each index of a document at every update of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def whose(client: str) -> str:
    """The client in a mark: without the colon, or one client's key could be another's mark."""
    return client.replace("%", "%25").replace(":", "%3A")


def identity(client: str, key: str) -> str:
    """Kept as long as the run document: the same key is the same run."""
    return f"key:{whose(client)}:{key}"


def active(client: str, workflow: str, kind: str, group: str) -> str:
    """Held by the one run of a group that others are skipped for, replace or join."""
    return f"active:{whose(client)}:{workflow}:{kind}:{group}"


def gathered(client: str, workflow: str, key: str) -> str:
    """Says that the start with this key is part of the run."""
    return f"gathered:{whose(client)}:{workflow}:{key}"


def slot(group: str, number: int) -> str:
    return f"slot:{group}:{number}"


def start(group: str, pace: str, number: int) -> str:
    """A start of this number, as the limit and period of this pace count them."""
    return f"starts:{pace}:{group}:{number}"


def slot_group(group: str) -> str:
    """Among a run's `groups`: it has a slot of this group, or wants one."""
    return f"slot:{group}"


def slot_holders(group: str) -> str:
    """Among a run's `groups`: it has a slot of this group."""
    return f"slot held:{group}"


def start_group(group: str, pace: str) -> str:
    """Among a run's `groups`: its start counts against the rate limit of this group and pace."""
    return f"starts:{pace}:{group}"


def held(run: Mapping[str, Any]) -> list[str]:
    """What the run lets go when it ends: others wait for these."""
    return [run[name] for name in ("active_key", "slot_key") if run.get(name)]
