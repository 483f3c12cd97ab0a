"""Keeps with a run the tokens of the requests whose commands it has obeyed: each is obeyed once,
though the request comes again, or its answer was lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lambent.mongo import Document

# As many as requests that are repeated might cross each other.
_KEPT: Final = 8


def has_obeyed(run: Mapping[str, Any], by: str | None) -> bool:
    """Whether the command of this token was done to the run; none is never."""
    return by is not None and by in run.get("obeyed", ())


def not_yet(by: str | None) -> Document:
    """The guard of an update that obeys it. One that is guarded by the epoch needs none."""
    return {} if by is None else {"obeyed": {"$ne": by}}


def noted(by: str | None) -> Document:
    """What such an update adds."""
    return {} if by is None else {"$push": {"obeyed": {"$each": [by], "$slice": -_KEPT}}}
