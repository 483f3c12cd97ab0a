"""Nudges over a real HTTP server: batches, the quiet time, failures, credentials."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

from lambent.aws_signing import Credentials
from lambent.dispatch import CredentialSource, Dispatch, Lane, Work

LANES = {Work.RUNS: Lane("step:live", 3), Work.EVENTS: Lane("deliver:live", 20)}


class ManualClock:
    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


@dataclass
class LambdaApi:
    """What the server was asked, and how it is to answer."""

    url: str = ""
    status: int = 202
    drop_next: bool = False
    invokes: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)


@contextmanager
def lambda_api() -> Iterator[LambdaApi]:
    api = LambdaApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if api.drop_next:
                api.drop_next = False
                self.close_connection = True
                return
            api.ports.add(self.client_address[1])
            api.invokes.append((unquote(self.path.split("/")[3]), json.loads(body)))
            api.headers.append({k.lower(): v for k, v in self.headers.items()})
            self.send_response(api.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            lapse = "2026-01-01T01:00:00Z"
            answer = {"AccessKeyId": "FETCHED", "SecretAccessKey": "S", "Expiration": lapse}
            body = json.dumps(answer | {"Token": self.headers["authorization"]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def dispatch_to(url: str, clock: ManualClock) -> Dispatch:
    source = CredentialSource(given=Credentials("AKID", "SECRET"))
    return Dispatch(LANES, clock=clock, region="eu-west-1", endpoint_url=url, source=source)


async def test_ids_go_out_in_batches_as_asynchronous_invokes_of_the_alias() -> None:
    with lambda_api() as api:
        dispatch = dispatch_to(api.url, ManualClock())
        assert await dispatch.nudge(Work.RUNS, ["a", "b", "c", "d", "a"]) == 4
        await dispatch.close()
    assert sorted(api.invokes, key=str) == [
        ("step:live", {"runs": ["a", "b", "c"]}),
        ("step:live", {"runs": ["d"]}),
    ]
    assert {one["x-amz-invocation-type"] for one in api.headers} == {"Event"}


async def test_an_id_is_left_alone_for_five_seconds_unless_there_is_news() -> None:
    clock = ManualClock()
    with lambda_api() as api:
        dispatch = dispatch_to(api.url, clock)
        assert await dispatch.nudge(Work.RUNS, ["a"]) == 1
        assert await dispatch.nudge(Work.RUNS, ["a"]) == 0
        assert await dispatch.nudge(Work.RUNS, ["a"], news=True) == 1
        assert await dispatch.nudge(Work.EVENTS, ["a"]) == 1
        clock.passed_s += 5
        assert await dispatch.nudge(Work.RUNS, ["a"]) == 1
        await dispatch.close()
    assert len(api.invokes) == 4


async def test_a_refused_invoke_raises_nothing_and_may_be_tried_again_at_once() -> None:
    with lambda_api() as api:
        dispatch = dispatch_to(api.url, ManualClock())
        api.status = 429
        assert await dispatch.nudge(Work.RUNS, ["a"]) == 0
        api.status = 202
        assert await dispatch.nudge(Work.RUNS, ["a"]) == 1
        await dispatch.close()


async def test_nobody_listening_raises_nothing() -> None:
    dispatch = dispatch_to("http://127.0.0.1:9", ManualClock())
    assert await dispatch.nudge(Work.RUNS, ["a"]) == 0
    await dispatch.close()


async def test_a_connection_that_died_while_idle_is_replaced() -> None:
    with lambda_api() as api:
        dispatch = dispatch_to(api.url, ManualClock())
        await dispatch.nudge(Work.RUNS, ["a"])
        api.drop_next = True
        assert await dispatch.nudge(Work.RUNS, ["b"]) == 1
        await dispatch.close()
    assert [ids for _, ids in api.invokes] == [{"runs": ["a"]}, {"runs": ["b"]}]


async def test_an_early_nudge_says_so_and_the_host_is_sent_as_it_was_signed() -> None:
    with lambda_api() as api:
        dispatch = dispatch_to(api.url, ManualClock())
        await dispatch.nudge(Work.RUNS, ["a"], early=True)
        await dispatch.close()
    assert [body for _, body in api.invokes] == [{"runs": ["a"], "early": True}]
    assert api.headers[0]["host"] == api.url.removeprefix("http://")
    assert "SignedHeaders=content-type;host;" in api.headers[0]["authorization"]


async def test_a_connection_is_kept_from_nudge_to_nudge() -> None:
    with lambda_api() as api:
        dispatch = dispatch_to(api.url, ManualClock())
        for number in range(5):
            await dispatch.nudge(Work.RUNS, [f"r{number}"])
        await dispatch.close()
    assert len(api.ports) == 1


async def test_after_a_snapshot_credentials_come_from_the_endpoint() -> None:
    with lambda_api() as api:
        source = CredentialSource(endpoint=f"{api.url}/creds", endpoint_token="secret")
        dispatch = Dispatch(
            LANES, clock=ManualClock(), region="r", endpoint_url=api.url, source=source
        )
        assert await dispatch.nudge(Work.RUNS, ["a"]) == 1
        await dispatch.close()
    assert "Credential=FETCHED/20260101/r/lambda" in api.headers[0]["authorization"]
    assert api.headers[0]["x-amz-security-token"] == "secret"


async def test_without_any_credentials_the_nudge_is_lost_and_nothing_raises() -> None:
    dispatch = Dispatch(LANES, clock=ManualClock(), region="r")
    assert await dispatch.nudge(Work.RUNS, ["a"]) == 0
    await dispatch.close()


def test_the_first_nudge_of_a_process_finds_everything_imported() -> None:
    # A function that is told to go has about a tenth of a second to settle and to nudge.
    script = """
import asyncio, sys
from lambent.clock import SystemClock
from lambent.dispatch import Dispatch, Lane, Work

dispatch = Dispatch(
    {Work.RUNS: Lane("step", 1)}, clock=SystemClock(), region="x", endpoint_url=sys.argv[1]
)
known = set(sys.modules)
sent = asyncio.run(dispatch.nudge(Work.RUNS, ["a"]))
print(sent, *sorted(set(sys.modules) - known))
"""
    with lambda_api() as api:
        command = [sys.executable, "-c", script, api.url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1"]
