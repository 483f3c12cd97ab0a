"""The declarative `where`: one predicate, applied by deliverer and slice alike."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

import pytest

from lambent.errors import Unprocessable
from lambent.where import clauses_of, matches

EVENT = {"type": "paid", "source": "shop/eu", "data": {"amount": 100, "to": {"city": "Rom"}}}


@pytest.mark.parametrize(
    ("where", "met"),
    [
        ({}, True),
        ({"data.amount": 100}, True),
        ({"data.amount": {"gte": 100, "lt": 101}}, True),
        ({"data.amount": {"gt": 100}}, False),
        ({"data.to.city": {"in": ["Rom", "Bonn"]}}, True),
        ({"data.to.city": {"nin": ["Rom"]}}, False),
        ({"source": {"prefix": "shop/"}}, True),
        ({"data.nothing": 1}, False),
        ({"data.nothing": {"ne": 1}}, True),
        ({"data.nothing": {"exists": False}}, True),
        ({"data.amount": {"exists": True}}, True),
        ({"data.amount": {"gt": "1"}}, False),
    ],
)
def test_an_event_meets_a_where_exactly_if_each_clause_holds(
    where: dict[str, Any], met: bool
) -> None:
    assert matches(clauses_of(where), EVENT) is met


def test_true_is_not_one() -> None:
    assert not matches(clauses_of({"data": True}), {"data": 1})


@pytest.mark.parametrize(
    "where", [{"data.a": {"like": "x"}}, {"data.a": {"in": "text"}}, {"data.a": {}}, {"": 1}]
)
def test_a_where_that_makes_no_sense_is_refused(where: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable):
        clauses_of(where)


def test_what_is_asked_is_kept_as_events_carry_it() -> None:
    number, day = UUID(int=7), date(2026, 3, 1)
    asked = {"data.pair": (1, 2), "data.id": number, "data.day": {"in": (day, None)}}
    kept = clauses_of(asked)
    assert kept == [
        ["data.pair", "eq", [1, 2]],
        ["data.id", "eq", str(number)],
        ["data.day", "in", ["2026-03-01", None]],
    ]
    assert matches(kept, {"data": {"pair": [1, 2], "id": str(number), "day": "2026-03-01"}})


def test_what_no_event_could_carry_is_refused_by_its_path() -> None:
    with pytest.raises(Unprocessable, match=r"data\.x"):
        clauses_of({"data.x": object()})
