"""In which order the test files are handed to the workers."""

from itertools import pairwise
from pathlib import Path

from tests.conftest import in_turn

WAITING = [Path(f"functions/test_storm_{number}.py") for number in range(5)]
OTHERS = [Path(f"unit/test_{number}.py") for number in range(20)]


def test_files_that_wait_are_spread_and_the_busiest_comes_last() -> None:
    busiest, longest = (Path(f"store/test_engine_{one}.py") for one in ("interleavings", "crashes"))
    order = in_turn([busiest, *WAITING, *WAITING, *OTHERS, longest])
    assert (order[0], order[-1]) == (longest, busiest)
    assert sorted(order) == sorted({busiest, longest, *WAITING, *OTHERS})
    places = [order.index(one) for one in WAITING]
    assert all(later - earlier > 2 for earlier, later in pairwise(places))
    assert places[-1] < len(order) - 4
