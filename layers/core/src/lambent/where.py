"""Decides whether an event meets a declarative `where`: the one predicate of bus and engine.

Written as `{"data.amount": {"gte": 100}, "data.state": "paid", "source": {"prefix": "shop/"}}`:
a path into the event (`data...` or an attribute) and either a value it must equal or operators,
all of which must hold. A path that leads nowhere fails every operator but `exists: False`,
`ne` and `nin`. Values of different kinds are never in order, so a comparison of them is false.

Stored as a list of `[path, operator, value]`: field names with dots in them do not travel well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lambent.codec import encode, plain
from lambent.errors import Unprocessable, Unserialisable

Clause = list[Any]

_MISSING: Final = object()


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def check(value: Any, wanted: Any) -> bool:
        if isinstance(value, bool) or isinstance(wanted, bool):
            return False
        both_numbers = isinstance(value, int | float) and isinstance(wanted, int | float)
        both_texts = isinstance(value, str) and isinstance(wanted, str)
        return (both_numbers or both_texts) and compare(value, wanted)

    return check


def _prefix(value: Any, wanted: Any) -> bool:
    return isinstance(value, str) and value.startswith(wanted)


def _equal(value: Any, wanted: Any) -> bool:
    # True == 1 in Python, but not in an event.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _within(value: Any, wanted: Any) -> bool:
    return any(_equal(value, one) for one in wanted)


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": _equal,
    "ne": lambda value, wanted: not _equal(value, wanted),
    "gt": _ordered(operator.gt),
    "gte": _ordered(operator.ge),
    "lt": _ordered(operator.lt),
    "lte": _ordered(operator.le),
    "in": _within,
    "nin": lambda value, wanted: not _within(value, wanted),
    "prefix": _prefix,
    "exists": lambda value, wanted: (value is not _MISSING) == bool(wanted),
}
_TRUE_OF_NOTHING: Final = {"ne", "nin", "exists"}


def clauses_of(where: Mapping[str, Any] | None) -> list[Clause]:
    """The stored form. Raises `Unprocessable`, naming the path, on what no event could be asked."""
    clauses: list[Clause] = []
    for path, wanted in (where or {}).items():
        if not isinstance(path, str) or not path:
            raise Unprocessable(f"`where` has a path that is no text: {path!r}.")
        if not isinstance(wanted, Mapping):
            clauses.append([path, "eq", _plain(path, wanted)])
            continue
        if not wanted:
            raise Unprocessable(f"`where` asks nothing of {path!r}.")
        clauses.extend(_clause(path, name, value) for name, value in wanted.items())
    return clauses


def _clause(path: str, name: str, value: Any) -> Clause:
    if name not in _OPERATORS:
        known = ", ".join(_OPERATORS)
        raise Unprocessable(f"`where` knows no operator {name!r} (on {path!r}); it knows {known}.")
    if name in {"in", "nin"} and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise Unprocessable(f"`where` wants a list for {name!r} on {path!r}.")
    if name == "prefix" and not isinstance(value, str):
        raise Unprocessable(f"`where` wants a text for 'prefix' on {path!r}.")
    return [path, name, _plain(path, value)]


def _plain(path: str, value: Any) -> Any:
    """As events carry it, which is JSON: else the one who asks would hold another value than the
    one who reads the wait, a tuple, say, in place of a list."""
    if isinstance(value, bytes):
        return value  # what an event of bytes has as its data
    try:
        return plain(encode(value).form)
    except Unserialisable as error:
        raise Unprocessable(f"`where` cannot ask this of {path!r}: {error.detail}") from None


def matches(clauses: Sequence[Clause], event: Mapping[str, Any]) -> bool:
    """Whether the event (its document) meets every clause."""
    for path, name, wanted in clauses:
        value = _at(event, path)
        if value is _MISSING and name not in _TRUE_OF_NOTHING:
            return False
        if not _OPERATORS[name](value, wanted):
            return False
    return True


def _at(event: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(event, Mapping) and part in event:
            event = event[part]
        elif isinstance(event, list) and part.isdigit() and int(part) < len(event):
            event = event[int(part)]
        else:
            return _MISSING
    return event
