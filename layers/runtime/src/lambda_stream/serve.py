"""The loop of an execution environment: take an invocation, answer it, take the next."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from lambda_stream.context import LambdaContext
from lambda_stream.failure import RuntimeFault, failure_from
from lambda_stream.function import Function, lifetime
from lambda_stream.logs import Logs
from lambda_stream.runtime_api import Invocation, RuntimeAPI
from lambda_stream.stop import Stop
from lambda_stream.wire import ProtocolError
from lambda_stream.worker import Worker

if TYPE_CHECKING:
    from lambda_stream.http_event import HTTPEvent

# The application is stopped this long before the deadline, so that its stream can end cleanly.
STOP_BEFORE_DEADLINE_S = 0.5
# An application that will not stop is left behind this long before the deadline.
GIVE_UP_BEFORE_DEADLINE_S = 0.15
# And this long after a shutdown cut it.
GIVE_UP_AT_SHUTDOWN_S = 0.08


class Server:
    """Answers invocations one after another until it is told to stop."""

    def __init__(self, api: RuntimeAPI, function: Function, logs: Logs, *, buffered: bool) -> None:
        self._api = api
        self._function = function
        self._logs = logs
        self._buffered = buffered
        self._worker = Worker()
        self._stopping = asyncio.Event()
        self._in_flight: Callable[[Stop], None] | None = None
        self.busy = False
        self.state: dict[str, Any] | None = None

    async def run(self) -> None:
        """Serve until `stop`. Raises RuntimeAPIError, OSError or ProtocolError when /next fails."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        while not self._stopping.is_set():
            coming = asyncio.ensure_future(self._api.next_invocation())
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
                break
            self.busy = True
            await self._handle(coming.result())
            self.busy = False
        stopping.cancel()

    @property
    def refuses(self) -> bool:
        return self._stopping.is_set()

    def refuse(self) -> None:
        """Take no further invocation."""
        self._stopping.set()

    def stop(self, *, drain_s: float) -> None:
        """Take no further invocation; what is in flight has `drain_s` to end by itself."""
        self.refuse()
        asyncio.get_running_loop().call_later(drain_s, self._stop_in_flight)

    def _stop_in_flight(self) -> None:
        if self._in_flight is not None:
            self._in_flight(Stop.SHUTDOWN)
        for task in lifetime.tasks:
            task.cancel()

    async def _handle(self, invocation: Invocation) -> None:
        """Answer one invocation, whatever happens, and let its background work end."""
        _set_trace(invocation.trace_id)
        self._logs.begin(invocation.request_id, invocation.tenant_id)
        remaining_s = max(0.0, invocation.deadline_ms / 1000 - time.time())
        try:
            await self._answer(invocation, remaining_s)
        except (OSError, ProtocolError) as error:
            # The answer is lost; Lambda knows, and the next invocation may well succeed.
            self._logs.warning(f"The Runtime API did not take the answer: {error!r}")
        left_s = invocation.deadline_ms / 1000 - time.time() - STOP_BEFORE_DEADLINE_S
        await end_background(self._logs, timeout_s=max(0.0, left_s))

    async def _answer(self, invocation: Invocation, remaining_s: float) -> None:
        try:
            context = LambdaContext(invocation)
            event = _decode(invocation.body)
            request = self._as_http(event)
        except Exception as error:  # the edge: whatever is wrong with the input is an answer too
            await self._fail(invocation, error)
            return
        if request is not None:
            await self._answer_http(invocation, request, event, context, remaining_s)
        else:
            await self._answer_event(invocation, event, context)

    def _as_http(self, event: Any) -> HTTPEvent | None:
        if self._function.asgi is None:
            return None
        from lambda_stream.http_event import payload_of, read_http_event

        payload = payload_of(event)
        return None if payload is None else read_http_event(event, payload)

    async def _answer_http(
        self,
        invocation: Invocation,
        request: HTTPEvent,
        event: Any,
        context: LambdaContext,
        remaining_s: float,
    ) -> None:
        from lambda_stream.answer import AnswerSink, BufferedAnswer, StreamedAnswer
        from lambda_stream.asgi import HTTPCycle

        assert self._function.asgi is not None
        scope = request.scope | {"aws.event": event, "aws.context": context}
        if self.state is not None:
            scope["state"] = self.state.copy()
        cycle = HTTPCycle(self._function.asgi, scope, request.body)
        sink: AnswerSink
        if self._buffered:
            sink = BufferedAnswer(self._api, invocation, request.payload)
        else:
            sink = StreamedAnswer(self._api, invocation, request.payload, on_break=cycle.broke)
        loop = asyncio.get_running_loop()
        stop_in_s = remaining_s - min(STOP_BEFORE_DEADLINE_S, remaining_s / 2)
        give_up_in_s = remaining_s - min(GIVE_UP_BEFORE_DEADLINE_S, remaining_s / 4)
        timers = [
            loop.call_later(stop_in_s, cycle.stop, Stop.DEADLINE),
            loop.call_later(give_up_in_s, cycle.give_up),
            loop.call_later(remaining_s, sink.close),
        ]

        def stop(why: Stop) -> None:
            cycle.stop(why)
            timers.append(loop.call_later(GIVE_UP_AT_SHUTDOWN_S, cycle.give_up))
            timers.append(loop.call_later(GIVE_UP_AT_SHUTDOWN_S + 0.02, sink.close))

        self._in_flight = stop
        try:
            error = await cycle.run(sink)
            if error is not None:
                self._logs.failure(failure_from(error), invocation.request_id)
            answer = await sink.answered()
        finally:
            for timer in timers:
                timer.cancel()
            self._in_flight = None
            sink.close()
        if cycle.broken_by:
            self._logs.warning(f"The stream was cut: {cycle.broken_by}")
        elif answer is not None and answer.status != 202:
            self._logs.warning(f"Lambda answered the stream with {answer.status}")

    async def _answer_event(
        self, invocation: Invocation, event: Any, context: LambdaContext
    ) -> None:
        handler = self._function.event
        try:
            if handler is None:
                raise RuntimeFault(
                    "Runtime.UnsupportedEvent",
                    "This function answers HTTP events only: it has no handler for other events.",
                )
            result = await self._interruptible(self._worker.call(handler, event, context))
            body = _encode(result)
        except BaseException as error:  # the edge: every error becomes an answer
            await self._fail(invocation, error)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
            return
        answer = await self._api.respond(invocation, body, content_type="application/json")
        if answer.status == 413:
            text = f"The answer of {len(body)} bytes is larger than Lambda takes."
            await self._fail(invocation, RuntimeFault("Function.ResponseSizeTooLarge", text))
        elif answer.status != 202:
            self._logs.warning(f"Lambda answered {answer.status}: {answer.body[:500]!r}")

    async def _interruptible(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work` so that a shutdown can cancel it."""
        task = asyncio.ensure_future(_boxed(work))
        shut_down = False

        def stop(_: Stop) -> None:
            nonlocal shut_down
            shut_down = True
            task.cancel()

        self._in_flight = stop
        try:
            result, error = await task
        except asyncio.CancelledError:
            if not shut_down:
                raise
            raise RuntimeFault("Runtime.Shutdown", "The environment is being shut down.") from None
        finally:
            self._in_flight = None
        if error is not None:
            raise error
        return result

    async def _fail(self, invocation: Invocation, error: BaseException) -> None:
        failure = failure_from(error)
        self._logs.failure(failure, invocation.request_id)
        answer = await self._api.fail(invocation, failure)
        if answer.status != 202:
            self._logs.warning(f"Lambda answered the error with {answer.status}")


async def _boxed(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """A task may not raise SystemExit: asyncio would let it through the event loop at once."""
    try:
        return await work, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


async def end_background(logs: Logs, *, timeout_s: float) -> None:
    """Wait for the background work of this invocation; cancel what is left at the time's end."""
    ends_at_s = time.monotonic() + timeout_s
    while lifetime.tasks:
        tasks = set(lifetime.tasks)
        left_s = ends_at_s - time.monotonic()
        done, late = await asyncio.wait(tasks, timeout=max(0.0, left_s))
        for task in done:
            lifetime.tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logs.failure(failure_from(error), "")
        if late and left_s <= 0:
            logs.warning(f"{len(late)} background tasks did not end before the deadline")
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=0.1)
            lifetime.tasks.difference_update(late)


def _set_trace(trace_id: str) -> None:
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        text = f"Unable to unmarshal input: {error}"
        raise RuntimeFault("Runtime.UnmarshalError", text) from None


def _encode(result: Any) -> bytes:
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False, default=_plain)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        text = f"Unable to marshal response: {error}"
        raise RuntimeFault("Runtime.MarshalError", text) from None


def _plain(value: Any) -> Any:
    """What AWS's own runtime also takes: decimals as numbers, UTF-8 bytes as text."""
    # Not imported for its own sake: whoever has a decimal has loaded the module.
    if type(value).__name__ == "Decimal":
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")
