"""The codec: what goes in comes out, and what cannot is named."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from lambent.codec import decode, encode, plain
from lambent.errors import Unserialisable


class Colour(enum.StrEnum):
    RED = "red"


class Article(BaseModel):
    title: str
    link: str = Field(default="", alias="url")
    tags: list[str] = []
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    articles: list[Article]
    price: Decimal = Decimal("0.1")
    extra: dict[str, Any] = field(default_factory=dict)


VALUES = [
    None, True, 0, -(2**63), 2**70, 1.5, "", "text", b"\x00\xff", [], {}, [1, [2, {"a": 3}]],
    (1, "two"), {1, 2}, frozenset({"a"}), {"~": "not a tag"}, {1: "one", (2, 3): "pair"},
    {"$a": 1, "b.c": 2}, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), date(2026, 1, 2), time(1, 2, 3),
    timedelta(days=-1, seconds=5, microseconds=7), Decimal("1.10"), UUID(int=7), Colour.RED,
    bytearray(b"x"), Digest([Article(title="a", url="b", tags=["x"])]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_went_in(value: object) -> None:
    stored = bson.decode(bson.encode({"v": encode(value).form}))["v"]
    found = decode(stored)
    assert found == value
    assert type(found) is type(value)


def test_a_model_keeps_what_was_appended_to_a_default() -> None:
    article = Article(title="a")
    article.tags.append("late")
    assert decode(encode(article).form).tags == ["late"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_value_survives_bson(value: object) -> None:
    stored = bson.decode(bson.encode({"v": encode(value).form}))["v"]
    assert decode(stored) == value


@given(json_values)
def test_the_size_estimate_is_never_far_below_the_truth(value: object) -> None:
    encoded = encode(value)
    assert len(bson.encode({"v": encoded.form})) <= encoded.size_bytes * 2 + 64


def test_an_unserialisable_value_is_named_by_its_place() -> None:
    with pytest.raises(Unserialisable, match=r"value\.a\[1\] is a builtins\.object"):
        encode({"a": [1, object()]})


def test_a_class_that_no_import_finds_is_refused() -> None:
    @dataclass
    class Local:
        x: int

    with pytest.raises(Unserialisable, match="module level"):
        encode(Local(1))


def test_a_value_without_bottom_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Unserialisable, match="levels deep"):
        encode(loop)


def test_people_see_plain_json() -> None:
    digest = Digest([Article(title="a", url="u")], price=Decimal("2.5"))
    assert plain(encode(digest).form) == {
        "articles": [{"title": "a", "link": "u", "tags": [], "seen_at": None}],
        "price": "2.5",
        "extra": {},
    }
