"""One HTTP request through an ASGI application: its receive, its send, its end."""

from __future__ import annotations

import asyncio
from typing import Any

from lambda_stream.answer import AnswerSink
from lambda_stream.failure import Failure, RuntimeFault, failure_from
from lambda_stream.function import ASGIApp, Message
from lambda_stream.response import Phase, Response
from lambda_stream.stop import Stop

# Between telling the application that the client is gone and cancelling it.
CANCEL_AFTER_S = 0.05


class ClientDisconnected(OSError):
    """Raised by `send` once nobody takes the answer any more (ASGI 2.4)."""


class HTTPCycle:
    """Runs the application once; what it sends goes through a Response to the sink."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
        self._app = app
        self._scope = scope
        self._body: bytes | None = body
        self._response: Response | None = None
        self._gone = asyncio.Event()
        self._task: asyncio.Task[BaseException | None] | None = None
        self._stop: Stop | None = None
        self._given_up = asyncio.Event()
        self.broken_by = ""

    def broke(self, reason: str) -> None:
        """The sink's connection is of no more use."""
        self.broken_by = reason
        if self._response is not None:
            self._response.abandon()
        self.stop(Stop.BROKEN)

    def stop(self, why: Stop) -> None:
        """Tell the application that the client is gone, and soon after cancel it."""
        if self._stop is None:
            asyncio.get_running_loop().call_later(CANCEL_AFTER_S, self._cancel)
        if self._stop is None or why is Stop.BROKEN:
            self._stop = why
        self._gone.set()

    def give_up(self) -> None:
        """Leave an application behind that swallowed its cancellation."""
        self._given_up.set()

    async def run(self, sink: AnswerSink) -> BaseException | None:
        """Run the application to its end and end the answer; return an error to be logged."""
        response = self._response = Response(sink, method=self._scope["method"])
        self._task = asyncio.get_running_loop().create_task(self._call())
        given_up = asyncio.ensure_future(self._given_up.wait())
        await asyncio.wait({self._task, given_up}, return_when=asyncio.FIRST_COMPLETED)
        given_up.cancel()
        if self._task.done():
            error = self._task.result()
        else:
            error = RuntimeFault("Runtime.Unstoppable", "The application ignored its cancellation.")
        self._gone.set()
        if self._stop is not None and isinstance(error, (asyncio.CancelledError, OSError)):
            error = None
        if response.phase is not Phase.ENDED:
            late = self._stop is Stop.DEADLINE
            response.fail(
                self._failure(error, response.phase),
                status=504 if late else 500,
                title="Gateway Timeout" if late else "Internal Server Error",
            )
        return error

    def _failure(self, error: BaseException | None, phase: Phase) -> Failure:
        if error is not None:
            return failure_from(error)
        if self._stop is Stop.SHUTDOWN:
            return Failure("Runtime.Shutdown", "The environment is being shut down.")
        if self._stop is not None:
            return Failure("Runtime.DeadlineExceeded", "Stopped shortly before the deadline.")
        if phase is Phase.WAITING:
            return Failure("Runtime.NoAnswer", "The application returned without an answer.")
        return Failure("Runtime.Unfinished", "The application did not finish its answer.")

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()

    async def _call(self) -> BaseException | None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as error:  # the edge: even SystemExit must not pass the event loop
            return error
        return None

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        # Beyond ASGI: whether the client left, or this environment has no more time.
        why = {} if self._stop is None else {"reason": self._stop.name.lower()}
        return {"type": "http.disconnect", **why}

    async def _send(self, message: Message) -> None:
        response = self._response
        assert response is not None
        kind = message["type"]
        if (
            response.phase is Phase.STREAMING
            and kind == "http.response.body"
            and not response.bodiless
            and message.get("more_body")
            and (data := message.get("body"))
        ):
            # The path of nearly every frame, kept short: it decides how fast a stream is.
            if response.write_on(data):
                await response.give_way()
            return
        await self._send_other(response, kind, message)

    async def _send_other(self, response: Response, kind: str, message: Message) -> None:
        if self._stop is Stop.BROKEN:
            raise ClientDisconnected(self.broken_by)
        match kind, response.phase:
            case "http.response.body", Phase.STREAMING | Phase.HELD:
                more = message.get("more_body", False)
                await response.body(bytes(message.get("body", b"")), more=more)
                if not more or response.bodiless:
                    self._gone.set()
            case "http.response.start", Phase.WAITING:
                response.begin(message["status"], list(message.get("headers", ())))
            case "http.response.body", Phase.ENDED if response.bodiless:
                if message.get("more_body"):  # an answer without a body does not go on for ever
                    self._stop = Stop.BROKEN
                    raise ClientDisconnected("the answer has no body")
            case kind, Phase.ENDED:
                raise RuntimeError(f"{kind} after the end of the answer")
            case kind, phase:
                raise RuntimeError(f"{kind} is out of turn ({phase.name.lower()})")
