"""Sends nudges: asynchronous Lambda Invokes that say "these documents are due now".

A nudge is a hint that saves latency, never a promise: the poller is the guarantee behind it. So
nothing here raises into its caller, and a nudge that fails costs one poll.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote, urlsplit

from lambent.aws_signing import Credentials, credentials_from_endpoint, sign_post
from lambent.clock import Clock
from lambent.origin import Origin
from lambent.settings import Settings
from lambent.telemetry import log_fields, logger

# In a payload: its documents are about to become due.
EARLY: Final = "early"
# Whoever gets an early nudge looks for them at least so long.
EARLY_FOR_S: Final = 0.05
# An id is nudged at most once in this time, unless there is news about it.
QUIET_S: Final = 5.0
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


def credentials_of(settings: Settings) -> CredentialSource:
    """As Lambda gives them to this environment."""
    given = None
    if settings.aws_access_key_id:
        given = Credentials(
            settings.aws_access_key_id,
            settings.aws_secret_access_key,
            settings.aws_session_token,
        )
    return CredentialSource(
        given,
        settings.aws_container_credentials_full_uri,
        settings.aws_container_authorization_token,
    )


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
    """Owns the way to the Lambda API, its credentials, and the memory of who was just nudged."""

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
        # All that can be is made ahead: a function that is told to go has little time.
        self._api = Origin(self._base, clock=clock)
        self._nudged: dict[tuple[Work, str], float] = {}
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)

    async def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False, early: bool = False
    ) -> int:
        """Invoke the function for these ids, in batches; returns how many ids were taken.

        An id that was nudged less than 5 s ago is left out, unless the caller has `news` about
        it: something happened since (a wake), and whoever had the first nudge may be gone.
        `early`: sent while the write that makes them due is still on its way, so that whoever
        gets it looks more than once.
        Never raises for a failed Invoke. What failed may be nudged again at once.
        """
        fresh = self._fresh(work, ids, news)
        size = self._lanes[work].batch
        batches = [fresh[start : start + size] for start in range(0, len(fresh), size)]
        sent = await asyncio.gather(*(self._send(work, batch, early) for batch in batches))
        return sum(sent)

    async def close(self) -> None:
        """Drop the connections; the next nudge makes a new one."""
        self._api.close()

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

    async def _send(self, work: Work, ids: Sequence[str], early: bool) -> int:
        function = self._lanes[work].function
        payload: dict[str, object] = {work.value: ids}
        if early:
            payload[EARLY] = True
        try:
            async with self._in_flight:
                status = await self._invoke(function, json.dumps(payload).encode())
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
        # Over a kept connection that was closed just now it is sent twice, which does no harm.
        answer = await self._api.exchange("POST", urlsplit(url).path, headers=headers, body=body)
        return answer.status

    async def _signing_credentials(self) -> Credentials:
        current = self._credentials
        if current is not None and not current.stale_at(self._clock.now()):
            return current
        if not self._source.endpoint:
            if current is None:
                raise LookupError("no AWS credentials are configured")
            return current
        headers = {"authorization": self._source.endpoint_token}
        endpoint = urlsplit(self._source.endpoint)
        asked = Origin(self._source.endpoint, clock=self._clock)
        try:
            answer = await asked.exchange("GET", endpoint.path or "/", headers=headers)
        finally:
            asked.close()
        if answer.status != 200:
            raise LookupError(f"the credentials endpoint answered {answer.status}")
        self._credentials = credentials_from_endpoint(json.loads(answer.body))
        return self._credentials
