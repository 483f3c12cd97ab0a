"""Step keys, and which records a restart leaves: by place in the code, never by scheduling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.clock import SystemClock
from lambent.engine import marks
from lambent.engine.branch import Branch
from lambent.engine.documents import new_cut, visible
from lambent.engine.options import Retry
from lambent.errors import ConcurrentSteps, ConfigError, WorkflowError
from lambent.ids import new_ulid, ulid_floor


def run(**fields: Any) -> dict[str, Any]:
    return {"epoch": 1, "base_epoch": 0, "cuts": [], **fields}


def record(key: str, order: int, epoch: int = 0) -> dict[str, Any]:
    return {"key": key, "order": order, "epoch": epoch}


def test_the_second_step_of_a_name_is_told_apart_by_its_number() -> None:
    branch = Branch("map[3]")
    keys = []
    for _ in range(2):
        keys.append(branch.enter("fetch"))
        branch.leave()
    assert keys == ["map[3]/fetch", "map[3]/fetch#2"]


def test_no_key_of_a_client_is_the_mark_of_another_client() -> None:
    assert marks.identity("a", "b:c") != marks.identity("a:b", "c")
    assert marks.identity("a%3Ab", "c") != marks.identity("a:b", "c")
    assert marks.active("a", "w", "one", "g") != marks.active("a:w", "one", "g", "")


def test_a_name_cannot_pretend_to_be_a_path() -> None:
    assert Branch().key("a/b#2[1]") == "a%2Fb%232%5B1%5D"


def test_a_step_within_a_step_is_refused() -> None:
    branch = Branch()
    branch.enter("outer")
    with pytest.raises(ConcurrentSteps, match="'inner' was begun while 'outer'"):
        branch.enter("inner")


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_name_has_a_length(name: str) -> None:
    with pytest.raises(WorkflowError):
        Branch().key(name)


@pytest.mark.parametrize(
    ("key", "order", "kept"),
    [
        ("before", 1, True),
        ("map[0]/act", 2, True),
        ("map[1]/act", 3, False),  # the cut itself
        ("map[1]/later", 6, False),
        ("map[2]/act", 4, True),  # a sibling of the cut, though it was begun later
        ("map[2]/deeper[0]/act", 5, True),
        ("map", 7, False),  # the failure of the map
        ("map#2[0]/act", 8, False),  # another map, begun after this one had ended
        ("after", 9, False),
    ],
)
def test_a_cut_keeps_what_was_before_it_and_its_siblings(key: str, order: int, kept: bool) -> None:
    cut = new_cut(0, 3, "map[1]/act")
    assert visible(run(cuts=[cut]), record(key, order)) is kept


def test_what_came_after_a_cut_counts_and_what_came_before_the_base_does_not() -> None:
    cut = new_cut(0, 3, "b")
    assert visible(run(cuts=[cut]), record("b", 9, epoch=1))
    assert not visible(run(base_epoch=1), record("a", 0, epoch=0))


@given(st.integers(1, 500), st.floats(0, 100), st.floats(1, 10), st.floats(0, 1000))
def test_a_rest_never_passes_its_cap(
    attempt: int, first_s: float, factor: float, cap_s: float
) -> None:
    retry = Retry(attempts=1, first_s=first_s, factor=factor, cap_s=cap_s)
    assert 0 <= retry.delay_s(attempt) <= cap_s


def test_a_retry_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError):
        Retry(attempts=0)


def test_ids_of_an_instant_lie_between_the_floors_around_it() -> None:
    now = SystemClock().now()
    later = now + timedelta(seconds=1)
    assert ulid_floor(now) <= new_ulid(SystemClock()) < ulid_floor(later + timedelta(seconds=60))
    assert ulid_floor(datetime(1970, 1, 1, tzinfo=UTC)) == "0" * 10
