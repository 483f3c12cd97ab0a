"""The headers that tell a client what is left of its limit."""

import pytest

from lambent.admission.decisions import LimitState
from lambent.admission.limits import headers, openai_headers


def state(reset_s: float = 30.0) -> LimitState:
    return LimitState(quota=100, window_s=60.0, remaining=50, reset_s=reset_s)


def test_the_ietf_headers_name_policy_and_what_is_left() -> None:
    assert headers(state()) == {
        "RateLimit-Policy": '"default";q=100;w=60',
        "RateLimit": '"default";r=50;t=30',
    }


def test_times_are_rounded_up_so_that_nobody_comes_back_too_early() -> None:
    assert headers(state(reset_s=0.2))["RateLimit"] == '"default";r=50;t=1'


def test_without_a_limit_there_are_no_headers() -> None:
    assert headers(None) == {}
    assert openai_headers(None) == {}


def test_openai_clients_find_their_own_headers() -> None:
    assert openai_headers(state()) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "50",
        "x-ratelimit-reset-requests": "30s",
    }


@pytest.mark.parametrize(
    ("reset_s", "text"),
    [
        (0.0, "0s"),
        (0.0119, "12ms"),
        (0.9995, "1s"),
        (1.0, "1s"),
        (59.2, "1m0s"),
        (360.0, "6m0s"),
        (3599.5, "1h0m0s"),
    ],
)
def test_openai_durations_are_written_as_go_writes_them(reset_s: float, text: str) -> None:
    assert openai_headers(state(reset_s=reset_s))["x-ratelimit-reset-requests"] == text
