"""An input is held against what its workflow declares, and nothing of it is converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from lambent.engine.inputs import check_input, misfit
from lambent.engine.registry import Registry, Workflow
from lambent.errors import Unprocessable


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    pieces: int = Field(default=1, ge=1, le=9)


class Order(BaseModel):
    items: list[Item]
    colour: Colour = Colour.RED
    at: datetime | None = None
    price: float = 1.0


@dataclass(frozen=True)
class Optional:
    articles: int = 5
    tags: tuple[str, ...] = ()


class Broken(BaseModel):
    name: str = ""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return {"ada": name}[name]


async def nothing(step: Any, input: Any) -> None: ...


def wrong(declared: Any, value: Any) -> dict[str, str]:
    """Each field at fault, and what is said of it."""
    found = misfit(Workflow(name="w", version=3, fn=nothing, input=declared), value)
    if found is None:
        return {}
    assert found.detail.startswith("The input is not what w, version 3, expects: input")
    return {one["field"]: one["message"] for one in found.fields["errors"]}


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Order, {"items": [{"name": "nut", "more": 1}], "colour": "red", "price": 2}),
        (Order, {"items": [], "at": "2026-03-01T07:00:00Z"}),
        (Order, Order(items=[])),
        (Order, {"items": (), "at": datetime(2026, 3, 1, tzinfo=UTC), "colour": Colour.RED}),
        (Optional, {"tags": ["a"], "unknown": {}}),
        (Optional, None),
        (int | None, None),
        (Callable[[], None], {"a": object}),
        (Order, {"items": object()}),
        (None, {"anything": True}),
    ],
)
def test_what_fits_is_taken(declared: Any, value: Any) -> None:
    assert wrong(declared, value) == {}


@pytest.mark.parametrize(
    ("declared", "value", "fields"),
    [
        (Order, None, {"input.items": "Field required"}),
        (Order, [], {"input": "should be an object"}),
        (Order, {"items": [{"name": "nut", "pieces": "2"}]}, {"input.items.0.pieces": "integer"}),
        (Order, {"items": [{"name": "nut", "pieces": 10}]}, {"input.items.0.pieces": "equal to 9"}),
        (Order, {"items": [], "colour": "blue"}, {"input.colour": "'red'"}),
        (Optional, {"articles": 2.0}, {"input.articles": "integer"}),
        (Optional, {"articles": True}, {"input.articles": "integer"}),
        (Broken, {"name": "bob"}, {"input": "It cannot be checked: KeyError('bob')"}),
    ],
)
def test_what_does_not_fit_is_told_by_field(
    declared: Any, value: Any, fields: dict[str, str]
) -> None:
    found = wrong(declared, value)
    assert found.keys() == fields.keys()
    assert all(said in found[field] for field, said in fields.items()), found


def test_as_many_problems_are_told_as_somebody_reads() -> None:
    assert len(wrong(Order, {"items": [{} for _ in range(500)]})) == 20


def test_what_is_not_deployed_is_not_judged() -> None:
    workflows = Registry()
    workflows.workflow("w", version=2, input=Order)(nothing)
    check_input(workflows, "w", 1, "anything")
    check_input(workflows, "other", None, "anything")
    with pytest.raises(Unprocessable):
        check_input(workflows, "w", None, "anything")
