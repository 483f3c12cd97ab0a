"""Calls webhooks: one signed POST for each due delivery, retried over a day, then a dead letter."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import httpcore

from lambent.bus import transitions
from lambent.bus.cloudevents import STRUCTURED, to_structured
from lambent.bus.events import event_of
from lambent.bus.ports import Bell, NoBell
from lambent.bus.signing import signature_headers
from lambent.bus.targets import PublicNetwork, TargetRefused
from lambent.bus.transitions import WebhookStatus
from lambent.clock import Clock
from lambent.due import Claimed, Database, DueDocuments, Settled
from lambent.metrics import Metric, note
from lambent.mongo import Document, guarded
from lambent.tracing import resumed, span

# Seconds before each retry: ten attempts over 19 hours.
BACKOFF_S: Final = (5, 30, 120, 600, 1800, 3600, 2 * 3600, 5 * 3600, 10 * 3600)
MAX_ATTEMPTS: Final = len(BACKOFF_S) + 1
CALL_LIMIT_S: Final = 15.0  # below the lease of 30 s, so that no second sender overlaps
READ_LIMIT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024
KEPT_ANSWER_CHARS: Final = 500
KEPT_ATTEMPTS: Final = 10
_JITTER: Final = 0.2
_MAX_RETRY_AFTER_S: Final = 6 * 3600
_MAX_DEATHS: Final = 5
_AT_ONCE: Final = 8
_KEEP_DELIVERED: Final = timedelta(days=7)
_KEEP_DEAD: Final = timedelta(days=30)

Headers = Sequence[tuple[str | bytes, str | bytes]]


class Sent(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD = "dead"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said. `status` 0: nothing, for the reason in `problem`."""

    status: int
    problem: str = ""
    excerpt: str = ""
    retry_after_s: float = 0.0
    refused: bool = False


class WebhookSender:
    """Sends the deliveries that are due. Follows no redirect, reads no proxy from anywhere."""

    def __init__(
        self,
        mongo: Database,
        *,
        clock: Clock,
        allow_loopback: bool = False,
        bell: Bell | None = None,
    ) -> None:
        self._mongo = mongo
        self._bell = bell or NoBell()
        self._clock = clock
        self._deliveries = DueDocuments(mongo, transitions.DELIVERIES, clock=clock)
        self._allow_loopback = allow_loopback
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def send_due(self, delivery_ids: Sequence[str], *, deadline_s: float) -> list[Sent]:
        """Claim and send each, several at once; none is begun that could pass `deadline_s`."""

        async def one(delivery_id: str) -> Sent:
            async with self._at_once:
                if self._clock.monotonic_s() + CALL_LIMIT_S > deadline_s:
                    return Sent.LOST
                claimed = await self._deliveries.claim(delivery_id)
                if claimed is None:
                    return Sent.LOST
                delivery = claimed.document
                with resumed(delivery.get("trace")), span(
                    f"webhook {delivery['type']}",
                    webhook=delivery["webhook"],
                    attempt=delivery["attempts"] + 1,
                ) as sending:  # fmt: skip
                    sent = await self._send(claimed)
                    sending.set(outcome=sent.value)
                    return sent

        return list(await asyncio.gather(*(one(delivery_id) for delivery_id in delivery_ids)))

    async def _send(self, claimed: Claimed) -> Sent:
        delivery = claimed.document
        if delivery["claims"] > _MAX_DEATHS:
            return await self._bury(claimed, "its senders died", delivery["history"])
        webhook = await guarded(
            self._mongo.db[transitions.WEBHOOKS].find_one({"_id": delivery["webhook"]})
        )
        event = await guarded(
            self._mongo.db[transitions.EVENTS.collection].find_one({"_id": delivery["event"]})
        )
        if webhook is None or webhook["status"] != WebhookStatus.ACTIVE:
            return await self._bury(claimed, "the webhook is gone or off", delivery["history"])
        if event is None:
            return await self._bury(claimed, "the event has expired", delivery["history"])
        begun_at = self._clock.now()
        answer = await self._call(webhook, event, delivery["_id"], begun_at)
        return await self._book(claimed, webhook, answer, begun_at)

    async def _call(
        self, webhook: Document, event: Document, delivery_id: str, now: datetime
    ) -> Answer:
        body = json.dumps(to_structured(event_of(event)), separators=(",", ":")).encode()
        good = [one["secret"] for one in webhook["secrets"] if not _lapsed(one, now)]
        signed = signature_headers(delivery_id, body, secrets=good, at=now)
        headers: Headers = [
            *signed.items(),
            ("content-type", STRUCTURED),
            ("user-agent", "lambent-webhooks/1"),
            ("accept-encoding", "identity"),
        ]
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                return await post(
                    webhook["url"],
                    body,
                    headers=headers,
                    allow_loopback=self._allow_loopback,
                )
        except TargetRefused as error:
            return Answer(0, problem=str(error), refused=True)
        except TimeoutError:
            return Answer(0, problem=f"no answer within {CALL_LIMIT_S:.0f} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return Answer(0, problem=f"{type(error).__name__}: {error}")

    async def _book(
        self, claimed: Claimed, webhook: Document, answer: Answer, begun_at: datetime
    ) -> Sent:
        delivery, now = claimed.document, self._clock.now()
        note(Metric.DELIVERY_ATTEMPTS)
        attempt = delivery["attempts"] + 1
        entry = {
            "attempt": attempt,
            "at": begun_at,
            "duration_ms": int((now - begun_at).total_seconds() * 1000),
            "status": answer.status,
            "problem": answer.problem,
            "excerpt": answer.excerpt,
        }
        history = [*delivery["history"][1 - KEPT_ATTEMPTS :], entry]
        if 200 <= answer.status < 300:
            await transitions.record_success(
                self._deliveries, claimed.lease, history=history, expire_at=now + _KEEP_DELIVERED
            )
            return Sent.DELIVERED
        if answer.refused:
            return await self._bury(claimed, "the target is refused", history)
        if answer.status == 410:
            # Standard Webhooks: "gone" means that the receiver wants no more of them.
            webhooks = self._mongo.db[transitions.WEBHOOKS]
            await transitions.disable_gone(
                webhooks, delivery["webhook"], url=webhook["url"], at=now
            )
            return await self._bury(claimed, "the receiver is gone", history)
        if attempt >= MAX_ATTEMPTS:
            return await self._bury(claimed, "every attempt failed", history)
        due_at = now + timedelta(seconds=retry_after_s(attempt, answer.retry_after_s))
        await transitions.record_failure(
            self._deliveries, claimed.lease, history=history, due_at=due_at
        )
        await self._bell.ring(due_at)
        return Sent.RETRY

    async def _bury(self, claimed: Claimed, reason: str, history: list[Document]) -> Sent:
        expire_at = self._clock.now() + _KEEP_DEAD
        settled = await transitions.bury(
            self._deliveries, claimed.lease, reason=reason, history=history, expire_at=expire_at
        )
        if settled is Settled.DONE:
            note(Metric.DELIVERIES_DEAD_LETTERED)
        return Sent.DEAD


def retry_after_s(attempt: int, asked_s: float) -> float:
    """Seconds to wait after this failed attempt (from 1), spread by a fifth to either side.

    A receiver that asks for longer with Retry-After gets it, up to 6 hours.
    """
    planned_s = BACKOFF_S[attempt - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
    return max(planned_s, min(asked_s, _MAX_RETRY_AFTER_S))


async def post(url: str, body: bytes, *, headers: Headers, allow_loopback: bool) -> Answer:
    """One POST over a connection of its own; reads no more of the answer than it keeps.

    Raises httpcore's errors, `TargetRefused` among them.
    """
    network = PublicNetwork(allow_loopback=allow_loopback)
    limits = {"connect": 5.0, "read": READ_LIMIT_S, "write": 10.0, "pool": 5.0}
    async with (
        httpcore.AsyncConnectionPool(network_backend=network, max_connections=1) as pool,
        pool.stream(
            "POST", url, headers=headers, content=body, extensions={"timeout": limits}
        ) as answer,
    ):
        # Its head says that it was taken, whatever becomes of the rest.
        if 200 <= answer.status < 300:
            return Answer(answer.status)
        kept = b""
        with suppress(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            async for chunk in answer.aiter_stream():
                kept += chunk
                if len(kept) > MAX_ANSWER_BYTES:
                    break
        asked_s = _retry_after(dict(answer.headers).get(b"retry-after", b""))
        excerpt = kept.decode(errors="replace").replace("\0", "")[:KEPT_ANSWER_CHARS]
        return Answer(answer.status, excerpt=excerpt, retry_after_s=asked_s)


def _retry_after(value: bytes) -> float:
    text = value.decode("latin-1").strip()
    return float(text) if text.isdigit() and len(text) < 10 else 0.0


def _lapsed(secret: Any, now: datetime) -> bool:
    return secret["until"] is not None and secret["until"] <= now
