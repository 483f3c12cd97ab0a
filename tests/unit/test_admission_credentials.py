"""Credentials are judged by their form before anything is asked, and never shown."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.admission.decisions import AdmissionConfig, AdmissionRequest, Refused, Scope
from lambent.admission.gate import Gate
from lambent.admission.keys import credential_of, parse_credential
from lambent.clock import SystemClock
from lambent.errors import StoreUnavailable, Unauthenticated
from lambent.postgres import Postgres

GOOD = f"lam_01ARZ3NDEKTSV4RRFFQ69G5FAV_{'k3Y' * 14}x"
# Nothing listens there: whoever asks the store is told StoreUnavailable.
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


async def refusal(credential: str | None) -> Refused:
    clock = SystemClock()
    gate = Gate(Postgres(NOWHERE, clock=clock), clock=clock, config=AdmissionConfig())
    decision = await gate.admit(AdmissionRequest(credential=credential, scope=Scope.CHAT))
    assert isinstance(decision, Refused)
    return decision


@pytest.mark.parametrize(
    "credential",
    [
        None,
        "",
        "lam_",
        "lam__",
        GOOD[:-20],
        GOOD[4:],
        GOOD + "\n",
        " " + GOOD,
        GOOD + "A" * 200,
        "A" * 10_000_000,
        GOOD.replace("A", "\u0661"),
        GOOD[:-1] + "\x00",
        GOOD[:-1] + "\ud800",
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_what_cannot_be_a_key_is_refused_without_asking_postgres(
    credential: str | None,
) -> None:
    assert isinstance((await refusal(credential)).error, Unauthenticated)


async def test_what_may_be_a_key_is_asked_about() -> None:
    assert isinstance((await refusal(GOOD)).error, StoreUnavailable)


@given(st.text())
def test_any_text_is_either_a_key_by_form_or_unauthenticated(text: str) -> None:
    with pytest.raises(Unauthenticated):
        parse_credential(text)


@given(st.text(), st.integers(0, len(GOOD)))
def test_text_put_into_a_good_key_never_raises_anything_else(text: str, at: int) -> None:
    try:
        parsed = parse_credential(GOOD[:at] + text + GOOD[at:])
    except Unauthenticated:
        return
    assert len(parsed.secret_hash) == 32
    assert parsed.key_id.isascii()


async def test_no_refusal_and_no_log_line_shows_the_credential(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = GOOD.rsplit("_", 1)[1]
    for credential in (GOOD, GOOD + "!"):
        assert secret not in repr(await refusal(credential))
        assert secret not in repr(AdmissionRequest(credential=credential, scope=Scope.CHAT))
    assert secret not in caplog.text


@pytest.mark.parametrize(
    ("authorization", "api_key", "credential"),
    [
        (None, None, None),
        (f"Bearer {GOOD}", None, GOOD),
        (f"bearer   {GOOD} ", None, GOOD),
        (None, GOOD, GOOD),
        ("Bearer", GOOD, ""),
        ("Basic bGFtOg==", None, ""),
        (f"Bearer {GOOD}", "other", GOOD),
    ],
)
def test_the_credential_comes_from_either_header(
    authorization: str | None, api_key: str | None, credential: str | None
) -> None:
    assert credential_of(authorization, api_key) == credential
