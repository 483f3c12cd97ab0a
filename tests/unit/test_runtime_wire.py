"""HTTP/1.1 framing of lambda_stream: against h11 for what is right, by fuzzing for what is not."""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lambda_stream
from lambda_stream.address import USER_AGENT
from lambda_stream.failure import Failure
from lambda_stream.wire import (
    Answer,
    AnswerParser,
    ProtocolError,
    chunk,
    field_value,
    last_chunk,
    request_head,
)

LAYER = Path(__file__).resolve().parents[2] / "layers/runtime"
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


def parse(data: bytes, cuts: list[int] | None = None) -> Answer | None:
    parser, answer, start = AnswerParser(), None, 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts or []), len(data)]:
        if cut > start:
            answer, start = parser.feed(data[start:cut]), cut
    return answer


def written_by_h11(status: int, fields: list[tuple[str, str]], pieces: list[bytes]) -> bytes:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.next_event()
    server.next_event()
    out = server.send(h11.Response(status_code=status, headers=fields)) or b""
    for piece in pieces:
        out += server.send(h11.Data(piece)) or b""
    return out + (server.send(h11.EndOfMessage()) or b"")


@given(
    st.sampled_from([200, 202, 400, 403, 413, 500]),
    st.dictionaries(TOKEN.filter(lambda n: n.startswith("x-")), VALUE, max_size=5),
    st.lists(st.binary(min_size=1, max_size=300), max_size=5),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=8),
)
@settings(max_examples=150)
def test_every_answer_that_h11_writes_is_read_back(
    status: int, fields: dict[str, str], pieces: list[bytes], sized: bool, cuts: list[int]
) -> None:
    given_fields = list(fields.items())
    if sized:
        given_fields.append(("Content-Length", str(sum(map(len, pieces)))))
    answer = parse(written_by_h11(status, given_fields, pieces), cuts)
    assert answer is not None
    assert (answer.status, answer.body, answer.keep_alive) == (status, b"".join(pieces), True)
    assert answer.headers.items() >= fields.items()


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1), st.text(max_size=80))
@settings(max_examples=150)
def test_h11_reads_back_every_chunked_request(pieces: list[bytes], message: str) -> None:
    failure = Failure("ValueError", message)
    server = h11.Connection(h11.SERVER)
    head = [("Transfer-Encoding", "chunked"), ("X-Any", message)]
    server.receive_data(request_head("POST", "/r", host="h:1", headers=head))
    server.receive_data(b"".join(map(chunk, pieces)) + last_chunk(failure.trailers()))
    assert isinstance(server.next_event(), h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    assert body == b"".join(pieces)
    assert isinstance(event, h11.EndOfMessage)
    assert dict(event.headers)[b"lambda-runtime-function-error-type"] == b"Runtime.ValueError"


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=300)
def test_rubbish_is_refused_or_waited_for_but_never_crashes(data: bytes, cuts: list[int]) -> None:
    for start in (
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n",
    ):
        with contextlib.suppress(ProtocolError):
            parse(start + data, cuts)


@given(st.data())
@settings(max_examples=200)
def test_a_cut_never_changes_what_is_read(data: st.DataObject) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-a: 1\r\nX-A: 2\r\n\r\n"
    raw += b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=12))
    answer = parse(raw, cuts)
    assert answer is not None
    assert (answer.body, answer.headers["x-a"]) == (b"abc0123456789", "1, 2")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 70_000 + b"\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(raw)


def test_interim_answers_are_passed_over() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok"
    answer = parse(raw)
    assert answer is not None
    assert (answer.status, answer.body) == (202, b"ok")


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") is None
    answer = parser.feed(b"")
    assert answer is not None
    assert (answer.body, answer.keep_alive) == (b"abc", False)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_connection_that_ends_early_is_an_error(cut: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"x" * 30
    parser = AnswerParser()
    assert parser.feed(raw[:cut]) is None
    with pytest.raises(ProtocolError):
        parser.feed(b"")


@given(st.text(max_size=60))
def test_a_field_value_never_ends_its_line(text: str) -> None:
    assert not set(field_value(text)) & set("\r\n\0")
    field_value(text).encode("latin-1")


@given(st.text(max_size=50), st.text(max_size=20_000), st.lists(st.text(max_size=4000), max_size=9))
@settings(max_examples=60)
def test_any_failure_fits_into_trailers(kind: str, message: str, stack: list[str]) -> None:
    failure = Failure(kind, message, tuple(stack))
    trailers = dict(failure.trailers())
    assert len(trailers["Lambda-Runtime-Function-Error-Body"]) < 64 * 1024
    assert trailers["Lambda-Runtime-Function-Error-Type"].isascii()
    assert json.loads(failure.to_json())["errorMessage"] == message


def test_the_runtimes_name_tells_its_version() -> None:
    assert USER_AGENT[1] == f"lambda-stream/{lambda_stream.__version__}"
    project = tomllib.loads((LAYER / "pyproject.toml").read_text())["project"]
    assert project["version"] == lambda_stream.__version__
