"""The Runtime APIs that the conformance suite is told to, and how each is known to differ.

A target is given a handler of tests/runtime/functions and answers HTTP requests and invokes. To
add one, write a class with the methods of `Target` and name it in TARGETS and, where it differs
from Lambda, in DIFFERENCES. A target that is not installed raises `Missing` when it is made.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from tests.runtime.process import FUNCTIONS, ROOT, RuntimeProcess, runtime_environment
from tests.runtime.strict_api import StrictRuntimeAPI


class Missing(Exception):
    """The target is not on this machine; the text says what would bring it."""


@dataclass(frozen=True)
class Reply:
    """An answer as its caller saw it; `error` is what Lambda was told went wrong."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: bytes = b""
    error: dict[str, Any] | None = None
    arrivals: int = 1


class Target(Protocol):
    """One function behind one Runtime API."""

    def request(self, event: dict[str, Any]) -> Reply:
        """Give an HTTP event, and take status, headers and body apart."""

    def invoke(self, event: Any) -> Reply:
        """Give any other event; the reply's body is JSON."""

    def close(self) -> None: ...


class Difference(StrEnum):
    """In what a Runtime API or its front may differ from Lambda's."""

    NO_STREAM = "holds the whole body back until the stream's end"
    NO_TRAILERS = "does not pass on an error that comes after the start"
    BUFFERED = "is answered in one JSON document (AWS_SAM_LOCAL)"


DIFFERENCES: dict[str, frozenset[Difference]] = {
    "strict": frozenset(),
    "rie": frozenset({Difference.NO_STREAM, Difference.NO_TRAILERS}),
    "rie-buffered": frozenset({Difference.NO_STREAM, Difference.BUFFERED}),
}


def split_stream(raw: bytes) -> Reply:
    """Prelude, delimiter and body as they come out of Lambda unread."""
    head, delimiter, body = raw.partition(bytes(8))
    assert delimiter, f"no delimiter in {raw[:200]!r}"
    prelude = json.loads(head)
    return Reply(prelude["statusCode"], prelude["headers"], prelude["cookies"], body)


class StrictTarget:
    """The strict Runtime API of this folder."""

    def __init__(self, handler: str) -> None:
        self._api = StrictRuntimeAPI()
        self._process = RuntimeProcess(handler, self._api.address)

    def request(self, event: dict[str, Any]) -> Reply:
        call = self._api.invoke(event).wait()
        if call.kind == "error" or not call.chunks:
            return Reply(500, error=call.json)
        whole = split_stream(b"".join(call.chunks))
        body = call.trailers.get("lambda-runtime-function-error-body")
        error = json.loads(base64.b64decode(body)) if body else None
        arrivals = len({round(at, 2) for at in call.chunk_times_s[2:]})
        return Reply(whole.status, whole.headers, whole.cookies, whole.body, error, arrivals)

    def invoke(self, event: Any) -> Reply:
        call = self._api.invoke(event).wait()
        return Reply(body=call.body, error=call.json if call.kind == "error" else None)

    def close(self) -> None:
        self._process.close()
        self._api.close()
        assert self._api.violations == [], self._api.violations


class RIETarget:
    """AWS's runtime interface emulator, unchanged; its binary comes with aws-sam-cli's wheel."""

    def __init__(self, handler: str, **extra: str) -> None:
        self._port = _free_port()
        runtime_port = _free_port()
        environment = runtime_environment(
            handler, PYTHONPATH=str(ROOT / "layers/runtime/src"), **extra
        )
        self._process = subprocess.Popen(
            [
                find_rie(),
                "--runtime-interface-emulator-address", f"127.0.0.1:{self._port}",
                "--runtime-api-address", f"127.0.0.1:{runtime_port}",
                sys.executable, "-m", "lambda_stream",
            ],
            env=environment, cwd=FUNCTIONS, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._await_port()

    def request(self, event: dict[str, Any]) -> Reply:
        return split_stream(self._post(event))

    def invoke(self, event: Any) -> Reply:
        raw = self._post(event)
        document = json.loads(raw)
        failed = isinstance(document, dict) and "errorType" in document
        return Reply(body=raw, error=document if failed else None)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5)

    def _post(self, event: Any) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            path = "/2015-03-31/functions/function/invocations"
            connection.request("POST", path, json.dumps(event))
            return connection.getresponse().read()
        finally:
            connection.close()

    def _await_port(self) -> None:
        ends_at_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                assert time.monotonic() < ends_at_s, "the emulator did not start"
                time.sleep(0.02)
            else:
                return


class BufferedRIETarget(RIETarget):
    """The same as `sam local invoke` uses it: one ordinary JSON document."""

    def __init__(self, handler: str) -> None:
        super().__init__(handler, AWS_SAM_LOCAL="true")

    def request(self, event: dict[str, Any]) -> Reply:
        raw = self._post(event)
        document = json.loads(raw)
        if "statusCode" not in document:
            return Reply(500, error=document)
        coded = document["isBase64Encoded"]
        body = base64.b64decode(document["body"]) if coded else document["body"].encode()
        return Reply(document["statusCode"], document["headers"], document["cookies"], body)


TARGETS: dict[str, Callable[[str], Target]] = {
    "strict": StrictTarget,
    "rie": RIETarget,
    "rie-buffered": BufferedRIETarget,
}


def find_rie() -> str:
    """The emulator's binary: LAMBENT_RIE, or where ./local/test installs aws-sam-cli."""
    if named := os.environ.get("LAMBENT_RIE"):
        return named
    machine = {"aarch64": "arm64", "arm64": "arm64"}.get(os.uname().machine, "x86_64")
    pattern = f"**/samcli/local/rapid/aws-lambda-rie-{machine}"
    for found in sorted((ROOT / ".lambent").glob(pattern)):
        _make_executable(found)
        return str(found)
    raise Missing("no RIE: install aws-sam-cli under .lambent, or set LAMBENT_RIE")


def _make_executable(path: Path) -> None:
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o755)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
