"""`GET /runs/{id}/events` on the chat function: a run's progress as server-sent events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

from starlette.types import Receive, Scope, Send

from lambent.clock import Clock
from lambent.engine.control import RunControl
from lambent.engine.model import ENDED
from lambent.engine.views import RunView
from lambent.errors import StoreUnavailable
from lambent.http.sse import DONE, HEADERS, KEEP_ALIVE

# How often the run is read; it is one read by `_id`, and doubles while nothing changes.
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0
_ENDED: Final = frozenset(status.value for status in ENDED)
_SHOWN: Final = ("status", "control", "progress", "recorded", "output", "error", "blocked")


class Stopping(Protocol):
    """Whether this environment is going away or its time is up."""

    def __call__(self) -> bool: ...


class RunEvents:
    """An ASGI application that streams one run, from a state that the client has not seen.

    Each frame is the run's whole state, and its id is a digest of it: a client that comes back
    with `Last-Event-ID` gets the present state at once where it differs, and nothing twice.
    Ends with `data: [DONE]` once the run has ended, and without it after `longest_s`: a tab that
    somebody forgot must not be paid for to the function's timeout.
    """

    def __init__(
        self,
        control: RunControl,
        run_id: str,
        *,
        client: str | None,
        last_event_id: str,
        keep_alive_s: float,
        clock: Clock,
        stopping: Stopping = lambda: False,
        longest_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._control = control
        self._run_id = run_id
        self._client = client
        self._seen = last_event_id
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._stopping = stopping
        self._ends_s = None if longest_s is None else clock.monotonic_s() + longest_s
        self._headers = {**HEADERS, **(headers or {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Read first: an unknown run is a 404 problem, not a stream.
        run = await self._control.get(self._run_id, client=self._client)
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for frame in self.frames(run):
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _is_over(self) -> bool:
        return self._ends_s is not None and self._clock.monotonic_s() >= self._ends_s

    async def frames(self, run: RunView) -> AsyncIterator[bytes]:
        """The frames, until the run has ended or this environment goes away."""
        pause_s, silent_s = _FIRST_PAUSE_S, 0.0
        while True:
            frame_id, data = shown(run)
            if frame_id != self._seen:
                self._seen, pause_s, silent_s = frame_id, _FIRST_PAUSE_S, 0.0
                yield f"id: {frame_id}\nevent: run\ndata: {data}\n\n".encode()
            elif silent_s >= self._keep_alive_s:
                silent_s = 0.0
                yield KEEP_ALIVE
            if run.status in _ENDED:
                yield DONE
                return
            if self._stopping() or self._is_over():
                return
            await self._clock.sleep(pause_s)
            silent_s += pause_s
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            try:
                run = await self._control.get(self._run_id, client=self._client)
            except StoreUnavailable:
                # The run goes on without us looking; so does the stream.
                continue


def shown(run: RunView) -> tuple[str, str]:
    """The frame's id and its JSON."""
    state: dict[str, Any] = {"id": run.id, "workflow": run.workflow}
    state |= {name: getattr(run, name) for name in _SHOWN}
    state["waits"] = [
        {"step": one.step, "kind": one.kind, "type": one.type, "subject": one.subject}
        for one in run.waits
    ]
    state["under_way"] = [
        {"step": one.step, "attempt": one.attempt, "started_at": one.started_at.isoformat()}
        for one in run.under_way
    ]
    data = json.dumps(state, ensure_ascii=False, default=str)
    return hashlib.sha256(data.encode()).hexdigest()[:16], data
