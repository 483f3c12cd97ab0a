"""Starts runs and publishes events over HTTP as a stubborn client: asks again until it is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx

_AGAIN_S = 0.25
_REFUSED = range(400, 500)


class Caller:
    """Every request names what it is about (a run's key, an event's id), so repeating it is safe.

    `counts` says how many requests were answered, and how many had to be repeated.
    """

    def __init__(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=8)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=limits)
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        await self._http.aclose()

    async def start(self, workflow: str, key: str, input: Any) -> str:
        """The id of the run."""
        body = {"workflow": workflow, "key": key, "input": input}
        return str((await self._ask("/runs", body))["id"])

    async def publish(self, id: str, type: str, subject: str, data: Any) -> str:
        """The platform's own id of the event."""
        event = {"specversion": "1.0", "source": "storm", "id": id, "type": type}
        answer = await self._ask("/events", {**event, "subject": subject, "data": data})
        return str(answer["events"][0]["key"])

    async def _ask(self, path: str, body: Any) -> Any:
        while True:
            try:
                answer = await self._http.post(path, json=body)
            except httpx.TransportError:
                self.counts["without an answer"] += 1
            else:
                if answer.status_code == 202:
                    self.counts["accepted"] += 1
                    return answer.json()
                assert answer.status_code not in _REFUSED, answer.text
                self.counts[f"answered {answer.status_code}"] += 1
            await asyncio.sleep(_AGAIN_S)
