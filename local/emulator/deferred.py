"""Runs asynchronous invokes with Lambda's retry policy; what keeps failing is set aside."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local.emulator.logs import FunctionLog, Level
from local.emulator.pool import Pool, Throttled
from local.emulator.reply import Failure, Invocation
from local.emulator.settings import EmulatorSettings

SendOn = Callable[[str, bytes], bool]
"""Hands a record to a destination that is a function here; False if there is none."""


@dataclass(slots=True)
class _Event:
    """One accepted event, through all its attempts."""

    payload: bytes
    request_id: str
    arn: str
    client_context: str | None
    accepted_at_s: float
    attempts: int = 0


class EventQueue:
    """The internal queue of one function. Events not yet done are lost when the stack stops."""

    def __init__(
        self, pool: Pool, settings: EmulatorSettings, *, log: FunctionLog, send_on: SendOn
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._log = log
        self._send_on = send_on
        self._policy = pool.function.retry
        self._deliveries: set[asyncio.Task[None]] = set()

    def put(
        self, payload: bytes, *, qualifier: str | None = None, client_context: str | None = None
    ) -> str:
        """Accept an event; returns its request id, which all attempts share."""
        event = _Event(
            payload=payload,
            request_id=str(uuid.uuid4()),
            arn=self._pool.function.arn(qualifier),
            client_context=client_context,
            accepted_at_s=time.monotonic(),
        )
        task = asyncio.get_running_loop().create_task(self._deliver(event))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return event.request_id

    async def close(self) -> None:
        for task in list(self._deliveries):
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)

    async def _deliver(self, event: _Event) -> None:
        failure: Failure | None = None
        while True:
            invocation = Invocation(
                event.payload, event.arn, event.client_context, request_id=event.request_id
            )
            body = await self._attempt(event, invocation)
            if body is None:
                self._set_aside(event, failure, condition="EventAgeExceeded")
                return
            event.attempts += 1
            failure = invocation.reply.failure
            if failure is None:
                self._succeeded(event, body)
                return
            if event.attempts > self._policy.retries:
                self._set_aside(event, failure, condition="RetriesExhausted")
                return
            delays = self._settings.retry_delays_s
            delay_s = delays[min(event.attempts, len(delays)) - 1]
            if self._age_s(event) + delay_s > self._policy.max_age_s:
                self._set_aside(event, failure, condition="EventAgeExceeded")
                return
            await asyncio.sleep(delay_s)

    async def _attempt(self, event: _Event, invocation: Invocation) -> bytes | None:
        """The reply's body; None when the event grew too old before it could be tried."""
        try:
            self._pool.submit(invocation, patient=True)
        except Throttled:  # a reserved concurrency of zero: nothing will ever run
            await asyncio.sleep(max(self._policy.max_age_s - self._age_s(event), 0))
            return None
        reply = invocation.reply
        while not reply.head.done():
            left_s = max(self._policy.max_age_s - self._age_s(event), 0)
            await asyncio.wait({reply.head}, timeout=left_s or None)
            if not reply.head.done() and self._pool.withdraw(invocation):
                return None
        return await reply.read()

    def _age_s(self, event: _Event) -> float:
        return time.monotonic() - event.accepted_at_s

    def _succeeded(self, event: _Event, body: bytes) -> None:
        if self._policy.on_success:
            record = self._record(event, None, condition="Success")
            record["responsePayload"] = _plain(body)
            self._send_on(self._policy.on_success, json.dumps(record).encode())

    def _set_aside(self, event: _Event, failure: Failure | None, *, condition: str) -> None:
        """Send the record on, and keep it in a file: a queue of AWS is not here to look at."""
        record = self._record(event, failure, condition=condition)
        target = self._policy.on_failure or self._policy.dead_letter
        sent = bool(target) and self._send_on(str(target), json.dumps(record).encode())
        self._log.line(
            f"event {event.request_id} failed for good after {event.attempts} attempts "
            f"({condition}); sent on to {target if sent else 'the failures file'}",
            Level.ERROR,
        )
        if not sent:
            self._keep(record, target)

    def _keep(self, record: dict[str, Any], target: str | None) -> None:
        folder: Path = self._settings.log_folder.parent / "failures"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._pool.function.short}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"destination": target, **record}) + "\n")

    def _record(self, event: _Event, failure: Failure | None, *, condition: str) -> dict[str, Any]:
        """The invocation record that destinations get."""
        record: dict[str, Any] = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "requestContext": {
                "requestId": event.request_id,
                "functionArn": event.arn,
                "condition": condition,
                "approximateInvokeCount": event.attempts,
            },
            "requestPayload": _plain(event.payload),
        }
        if event.attempts:
            record["responseContext"] = {
                "statusCode": 200,
                "executedVersion": self._pool.function.version,
                **({"functionError": "Unhandled"} if failure else {}),
            }
        if failure is not None:
            record["responsePayload"] = _plain(failure.document())
        return record


def _plain(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode("utf-8", "replace")
