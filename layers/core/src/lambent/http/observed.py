"""Counts requests by their outcome, and writes the metrics of an invocation when it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambent.invocation import reporting
from lambent.metrics import Metric, note
from lambent.tracing import request_span


class Observed:
    """The outermost layer of a function's application: what it records is written at its end.

    By then the answer is out, and what it held is given back; the next invocation has not come.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        failed: Metric,
        after: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`failed` counts this function's own faults; `after`: what else is to be told then; it
        never fails."""
        self._app = app
        self._failed = failed
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of an error that nothing below answered

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async with reporting():
            try:
                with request_span(scope["method"], scope["path"], Headers(scope=scope)) as span:
                    await self._app(scope, receive, noting)
                    span.set(**{"http.response.status_code": status})
            finally:
                note(Metric.REQUESTS)
                if status >= 400:
                    outcome = _outcome(status)
                    note(outcome)
                    if outcome is Metric.REQUESTS_FAILED:
                        note(self._failed)
                if self._after is not None:
                    await self._after()


def _outcome(status: int) -> Metric:
    if status == 503:
        return Metric.REQUESTS_UNAVAILABLE
    # 501: the caller named an agent that does not exist.
    refused = status < 500 or status == 501
    return Metric.REQUESTS_REFUSED if refused else Metric.REQUESTS_FAILED
