"""`ModelLibrary`: what the model servers hold and have loaded, and changing that."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from lambent.errors import LambentError, ModelRefused, NotFound
from lambent.models import wire
from lambent.models.failures import tidy
from lambent.models.manager import ModelManager
from lambent.models.values import ModelDetails, ModelInfo, RunningModel

_GENERATE: Final = "/api/generate"
_LOAD_LIMIT_S: Final = 300.0
# Between two lines of a pull; a slow disk may verify a large file for minutes.
_PULL_SILENCE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Shelf:
    """What one server holds and has loaded; `error` where it did not answer."""

    host: str
    error: str | None
    held: tuple[ModelInfo, ...] = ()
    loaded: tuple[RunningModel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PullState:
    """How far a pull is; `status` is the server's own word."""

    done: bool
    status: str
    completed_bytes: int
    total_bytes: int


class ModelLibrary:
    """For admins. Calls raise what `ModelManager` raises, and `NotFound` for a strange host."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    @property
    def hosts(self) -> tuple[str, ...]:
        """The servers, the preferred one first."""
        return self._models.hosts

    def checked(self, host: str | None) -> str:
        """The host, or the preferred one; raises `NotFound` for one that is not ours."""
        if host is None:
            return self.hosts[0]
        if host not in self.hosts:
            raise NotFound(f"There is no model host {host[:200]!r}.")
        return host

    async def shelves(self) -> tuple[Shelf, ...]:
        """Of every server, asked at once."""
        return tuple(await asyncio.gather(*(self._shelf(host) for host in self.hosts)))

    async def show(self, model: str, *, host: str | None) -> ModelDetails:
        """What the server knows of the model."""
        return await self._models.show(model, host=self.checked(host))

    async def load(self, model: str, *, host: str | None, keep_alive: float | str | None) -> None:
        """Have it loaded, and kept for `keep_alive` (Ollama's: seconds, "5m", -1 for ever)."""
        body: dict[str, Any] = {"model": model}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        can = (await self.show(model, host=host)).capabilities
        # What only makes vectors is refused for generations; servers of old do not say what can.
        path = _GENERATE if not can or "completion" in can else "/api/embed"
        await self._models.call(path, body, host=self.checked(host), limit_s=_LOAD_LIMIT_S)

    async def unload(self, model: str, *, host: str | None) -> None:
        """Free its memory as soon as nobody generates with it."""
        # Of any model: a server ends it by this before it asks what it can do; by the other way it
        # would load it first.
        body = {"model": model, "keep_alive": 0}
        await self._models.call(_GENERATE, body, host=self.checked(host), limit_s=_LOAD_LIMIT_S)

    async def delete(self, model: str, *, host: str | None) -> None:
        """Delete its files."""
        await self._models.call(
            "/api/delete", {"model": model}, host=self.checked(host), method="DELETE"
        )

    async def pull(self, model: str, *, host: str, within_s: float) -> PullState:
        """Fetch the model for so long; asked again, the server goes on where it was."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        sizes: dict[str, tuple[int, int]] = {}
        status = ""
        lines = self._models.stream_lines(
            "/api/pull", {"model": model, "stream": True}, host=host, silence_s=_PULL_SILENCE_S
        )
        async with aclosing(lines):
            async for line in lines:
                record = _record(line)
                status = str(record.get("status") or "")
                if "digest" in record:
                    sizes[str(record["digest"])] = (
                        int(record.get("completed") or 0), int(record.get("total") or 0),
                    )  # fmt: skip
                if status == "success" or loop.time() >= until_s:
                    break
        return PullState(
            done=status == "success",
            status=status,
            completed_bytes=sum(completed for completed, _ in sizes.values()),
            total_bytes=sum(total for _, total in sizes.values()),
        )

    async def _shelf(self, host: str) -> Shelf:
        try:
            held, loaded = await asyncio.gather(
                self._models.list_models(host=host), self._models.list_running(host=host)
            )
        except LambentError as error:
            return Shelf(host, error.detail)
        return Shelf(host, None, held, loaded)


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise wire.senseless() from error
    if not isinstance(record, dict):
        raise wire.senseless()
    if record.get("error"):
        raise ModelRefused(f"The model cannot be pulled: {tidy(str(record['error']))}")
    return record
