"""The form that a workflow's input schema becomes."""

from datetime import date, datetime
from enum import Enum
from typing import Literal

from pydantic import BaseModel, Field

from lambent.http.admin.start_form import fields_of, input_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Order(BaseModel):
    colour: Colour
    second: Colour | None = None
    size: Literal["S", "M"] = "M"
    stars: Literal[1, 2] = 1
    count: int = Field(ge=1, le=100, description="Pieces.")
    on: date
    at: datetime | None = None
    parts: list[int] = []


def test_each_kind_of_value_has_its_field() -> None:
    fields = {one.name: one for one in fields_of(Order.model_json_schema())}
    both = (('"red"', "red"), ('"blue"', "blue"))
    for name in ("colour", "second"):
        assert (fields[name].kind, fields[name].choices) == ("choice", both), name
    assert (fields["colour"].required, fields["second"].required) == (True, False)
    assert (fields["size"].choices[1], fields["size"].value) == (('"M"', "M"), '"M"')
    assert fields["stars"].choices == (("1", "1"), ("2", "2"))
    assert fields["count"].kind == "number"
    assert fields["count"].hint == "Pieces. A whole number. At least 1. At most 100."
    assert (fields["on"].kind, fields["on"].type) == ("text", "date")
    assert fields["at"].type == "text"
    assert "2026-11-28T10:00:00Z" in fields["at"].hint
    assert fields["parts"].kind == "json"


def test_what_is_chosen_and_filled_in_is_the_input() -> None:
    form = {"kind.colour": "choice required", "in.colour": '"blue"', "kind.second": "choice",
            "in.second": "", "kind.stars": "choice", "in.stars": "2", "kind.on": "text required",
            "in.on": "2026-11-28", "kind.count": "number required", "in.count": "3"}  # fmt: skip
    found = Order.model_validate(input_of(form))
    assert (found.colour, found.second, found.stars, found.count) == (Colour.BLUE, None, 2, 3)
