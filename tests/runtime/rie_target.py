"""AWS's runtime interface emulator as a target, unchanged: plain, and as `sam local` sets it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from local.services.process import free_port
from tests.runtime.contract import Reply, read_invoke, split_stream
from tests.runtime.process import FUNCTIONS, ROOT, runtime_environment
from tests.runtime.rie import find_rie


class RIETarget:
    """A process of the emulator with the runtime below it."""

    def __init__(self, handler: str, *, timeout_s: float = 20.0, **extra: str) -> None:
        program = find_rie()
        self._port = free_port()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        environment = runtime_environment(
            handler,
            PYTHONPATH=str(ROOT / "layers/runtime/src"),
            AWS_LAMBDA_FUNCTION_TIMEOUT=str(int(timeout_s)),
            **extra,
        )
        self._process = subprocess.Popen(
            [
                program,
                "--runtime-interface-emulator-address", f"127.0.0.1:{self._port}",
                "--runtime-api-address", f"127.0.0.1:{free_port()}",
                sys.executable, "-m", "lambda_stream",
            ],
            env=environment, cwd=FUNCTIONS, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            self._await_port()
        except BaseException:
            self.close()
            raise

    @property
    def output(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def request(self, event: dict[str, Any]) -> Reply:
        raw = self._post(event)
        if bytes(8) in raw:
            return split_stream(raw)
        return Reply(500, error=json.loads(raw))  # no answer was begun

    def invoke(self, event: Any) -> Reply:
        return read_invoke(self._post(event))

    def hang_up(self, event: dict[str, Any]) -> None:
        raise NotImplementedError("nothing arrives before the end")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5)
        self._output.close()

    def _post(self, event: Any) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            path = "/2015-03-31/functions/function/invocations"
            connection.request("POST", path, json.dumps(event))
            return connection.getresponse().read()
        finally:
            connection.close()

    def _await_port(self) -> None:
        ends_at_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                assert self._process.poll() is None, self.output
                assert time.monotonic() < ends_at_s, f"the emulator did not start: {self.output}"
                time.sleep(0.02)
            else:
                return


class BufferedRIETarget(RIETarget):
    """The same as `sam local invoke` uses it: one ordinary JSON document."""

    def __init__(self, handler: str, *, timeout_s: float = 20.0) -> None:
        super().__init__(handler, timeout_s=timeout_s, AWS_SAM_LOCAL="true")

    def request(self, event: dict[str, Any]) -> Reply:
        document = json.loads(self._post(event))
        if "statusCode" not in document:
            return Reply(500, error=document)
        coded = document["isBase64Encoded"]
        body = base64.b64decode(document["body"]) if coded else document["body"].encode()
        return Reply(document["statusCode"], document["headers"], document["cookies"], body)
