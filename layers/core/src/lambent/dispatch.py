"""Sends nudges: asynchronous Lambda Invokes that say "these documents are due now".

A nudge is a hint that saves latency, never a promise: the poller is the guarantee behind it. So
nothing here raises into its caller, and a nudge that fails costs one poll.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import quote

import anyio._backends._asyncio  # noqa: F401 - or httpcore imports it at the first nudge
import httpx

from lambent.aws_signing import Credentials, credentials_from_endpoint, sign_post
from lambent.clock import Clock
from lambent.settings import Settings
from lambent.telemetry import log_fields, logger

# An id is nudged at most once in this time, unless there is news about it.
QUIET_S: Final = 5.0
_TIMEOUT: Final = httpx.Timeout(3.0, connect=2.0)
_FREEZE: Final = timedelta(seconds=20)
# Invokes at once from one environment: more only queue up in front of the Lambda API.
_IN_FLIGHT: Final = 10


class Work(StrEnum):
    """What the ids of a nudge name; the value is their key in the payload."""

    RUNS = "runs"
    EVENTS = "events"
    WEBHOOKS = "webhooks"
    SCHEDULES = "schedules"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class Lane:
    """The function (with its alias: `name:alias`) for one kind of work, and ids a call."""

    function: str
    batch: int


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """Where credentials come from: given ones, else the container credentials endpoint.

    The endpoint is what Lambda offers to a function restored from a snapshot.
    """

    given: Credentials | None = None
    endpoint: str = ""
    endpoint_token: str = ""


def lanes_of(settings: Settings) -> dict[Work, Lane]:
    """Which function does which work. `deliver` does all that is not a run."""
    deliver = Lane(settings.deliver_function, 20)
    return {
        Work.RUNS: Lane(settings.step_function, settings.step_batch),
        Work.EVENTS: deliver,
        Work.WEBHOOKS: deliver,
        Work.SCHEDULES: deliver,
        Work.POLL: Lane(settings.poller_function, 1),
    }


class Dispatch:
    """Owns one HTTP client, the credentials, and the memory of who was nudged just now."""

    def __init__(
        self,
        lanes: Mapping[Work, Lane],
        *,
        clock: Clock,
        region: str,
        endpoint_url: str = "",
        source: CredentialSource | None = None,
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._region = region
        self._base = (endpoint_url or f"https://lambda.{region}.amazonaws.com").rstrip("/")
        self._source = source or CredentialSource()
        self._credentials: Credentials | None = self._source.given
        if endpoint_url and not (self._source.given or self._source.endpoint):
            # An emulator checks no signature, so one made with placeholders will do.
            self._credentials = Credentials("local", "local")
        secure = self._base.startswith("https:")
        # Read once: the trusted roots take tens of milliseconds, and each thaw needs a new client.
        self._trust = httpx.create_ssl_context(trust_env=False) if secure else False
        # All that can be is made ahead: a function that is told to go has no time to import.
        self._client: httpx.AsyncClient | None = self._new_client()
        self._used_at = clock.now()
        self._nudged: dict[tuple[Work, str], float] = {}
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)

    async def nudge(self, work: Work, ids: Iterable[str], *, news: bool = False) -> int:
        """Invoke the function for these ids, in batches; returns how many ids were taken.

        An id that was nudged less than 5 s ago is left out, unless the caller has `news` about
        it: something happened since (a wake), and whoever had the first nudge may be gone.
        Never raises for a failed Invoke. What failed may be nudged again at once.
        """
        fresh = self._fresh(work, ids, news)
        size = self._lanes[work].batch
        batches = [fresh[start : start + size] for start in range(0, len(fresh), size)]
        sent = await asyncio.gather(*(self._send(work, batch) for batch in batches))
        return sum(sent)

    async def close(self) -> None:
        """Close the HTTP client; the next nudge makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _fresh(self, work: Work, ids: Iterable[str], news: bool) -> list[str]:
        now_s = self._clock.monotonic_s()
        # Insertion order is age order, so the memory holds no more than 5 s of nudges.
        for key, at_s in list(self._nudged.items()):
            if now_s - at_s < QUIET_S:
                break
            del self._nudged[key]
        fresh = []
        for one in dict.fromkeys(ids):
            if news or (work, one) not in self._nudged:
                self._nudged.pop((work, one), None)
                self._nudged[(work, one)] = now_s
                fresh.append(one)
        return fresh

    async def _send(self, work: Work, ids: Sequence[str]) -> int:
        function = self._lanes[work].function
        try:
            async with self._in_flight:
                status = await self._invoke(function, json.dumps({work.value: ids}).encode())
            problem = "" if status < 300 else f"status {status}"
        # A nudge is a hint: whatever goes wrong here must not fail the work that is done.
        except Exception as error:
            problem = repr(error)
        if not problem:
            return len(ids)
        for one in ids:
            self._nudged.pop((work, one), None)
        logger().warning(
            "nudge failed", **log_fields(function=function, ids=len(ids), problem=problem)
        )
        return 0

    async def _invoke(self, function: str, body: bytes) -> int:
        url = f"{self._base}/2015-03-31/functions/{quote(function, safe='')}/invocations"
        now = self._clock.now()
        headers = sign_post(
            url,
            body,
            headers={"content-type": "application/json", "x-amz-invocation-type": "Event"},
            credentials=await self._signing_credentials(),
            region=self._region,
            service="lambda",
            now=now,
        )
        try:
            answer = await self._http().post(url, content=body, headers=headers)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # The server closed a kept-alive connection just now; a second Invoke does no harm.
            answer = await self._http().post(url, content=body, headers=headers)
        return answer.status_code

    def _http(self) -> httpx.AsyncClient:
        now = self._clock.now()
        if self._client is not None and now - self._used_at > _FREEZE:
            # Frozen in between: its sockets may be dead without knowing it. No goodbye on them.
            self._client = None
        if self._client is None:
            self._client = self._new_client()
        self._used_at = now
        return self._client

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=self._trust)

    async def _signing_credentials(self) -> Credentials:
        current = self._credentials
        if current is not None and not current.stale_at(self._clock.now()):
            return current
        if not self._source.endpoint:
            if current is None:
                raise LookupError("no AWS credentials are configured")
            return current
        headers = {"authorization": self._source.endpoint_token}
        answer = await self._http().get(self._source.endpoint, headers=headers)
        self._credentials = credentials_from_endpoint(answer.raise_for_status().json())
        return self._credentials
