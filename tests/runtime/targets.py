"""The Runtime APIs that the conformance suite is told to, and how each is known to differ.

To add one, write a class with the methods of `Target` and name it in TARGETS and in DIFFERENCES.
A target that is not installed raises `Missing` when it is made.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.runtime.contract import Deploy, Difference, Reply, split_stream
from tests.runtime.emulator_target import EmulatorTarget, FunctionURLTarget
from tests.runtime.process import RuntimeProcess
from tests.runtime.rie_target import BufferedRIETarget, RIETarget
from tests.runtime.strict_api import Call, Fault, StrictRuntimeAPI


class StrictTarget:
    """The strict Runtime API of this folder."""

    def __init__(self, handler: str, *, timeout_s: float = 20.0) -> None:
        self._timeout_s = timeout_s
        self._api = StrictRuntimeAPI()
        self._process = RuntimeProcess(handler, self._api.address)

    @property
    def output(self) -> str:
        return self._process.output

    def request(self, event: dict[str, Any]) -> Reply:
        call = self._call(event)
        if call is None or call.kind == "error" or not call.chunks:
            return Reply(500, error=call.json if call else self._api.init_error)
        whole = split_stream(b"".join(call.chunks))
        body = call.trailers.get("lambda-runtime-function-error-body")
        error = json.loads(base64.b64decode(body)) if body else None
        arrivals = len({round(at, 2) for at in call.chunk_times_s[2:]})
        return Reply(whole.status, whole.headers, whole.cookies, whole.body, error, arrivals)

    def invoke(self, event: Any) -> Reply:
        call = self._call(event)
        if call is None:
            return Reply(error=self._api.init_error)
        return Reply(body=call.body, error=call.json if call.kind == "error" else None)

    def hang_up(self, event: dict[str, Any]) -> None:
        self._api.invoke(event, fault=Fault(after_chunks=3, reset=True)).wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def close(self) -> None:
        self._process.close()
        self._api.close()
        assert self._api.violations == [], self._api.violations

    def _call(self, event: Any) -> Call | None:
        """The whole exchange; None where the function could not start."""
        while not (self._api.asked_next.wait(0.02) or self._api.init_failed.is_set()):
            assert self._process.pid
        if self._api.init_failed.is_set():
            return None
        return self._api.invoke(event, deadline_s=self._timeout_s).wait(30)


TARGETS: dict[str, Deploy] = {
    "strict": StrictTarget,
    "emulator": EmulatorTarget,
    "emulator-url": FunctionURLTarget,
    "rie": RIETarget,
    "rie-buffered": BufferedRIETarget,
}

_RIE = frozenset(
    {
        Difference.NO_STREAM,
        Difference.NO_LEAVING,
        Difference.DROPS_CALLER,
        Difference.SIX_MEGABYTES,
    }
)

DIFFERENCES: dict[str, frozenset[Difference]] = {
    "strict": frozenset(),
    "emulator": frozenset(),
    # An HTTP client is cut off; only who invokes the function is told why.
    "emulator-url": frozenset({Difference.NO_TRAILERS}),
    "rie": _RIE | {Difference.NO_TRAILERS},
    "rie-buffered": _RIE | {Difference.BUFFERED},
    # Told the stories by tests/aws: they need Docker, a build, LocalStack.
    "localstack": _RIE | {Difference.NO_TRAILERS, Difference.NO_STOP},
    "sam-local": _RIE | {Difference.NO_TRAILERS, Difference.BUFFERED, Difference.NO_STOP},
}
