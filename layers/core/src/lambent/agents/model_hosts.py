"""`ModelHosts`: which of several model servers may be asked for a model, and have it ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lambent.admission.decisions import Candidates
from lambent.errors import LambentError
from lambent.model_names import canonical
from lambent.models.manager import ModelManager
from lambent.models.values import ModelInfo

# What is loaded changes with every call, what is there at all only by hand.
_FRESH_S: Final = 5.0
_LOOK_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Look:
    """What a host said last; `held` is None where it did not answer."""

    at_s: float
    held: frozenset[str] | None
    loaded: frozenset[str]


_NEVER: Final = _Look(float("-inf"), None, frozenset())


class ModelHosts:
    """One host is never asked anything; several are looked at again after a few seconds.

    Nobody waits twice for a silent host: it is looked at again while the callers go on.
    """

    def __init__(
        self,
        models: ModelManager,
        *,
        fresh_s: float = _FRESH_S,
        look_limit_s: float = _LOOK_LIMIT_S,
    ) -> None:
        self._models = models
        self._fresh_s = fresh_s
        self._look_limit_s = look_limit_s
        self._looks: dict[str, _Look] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def for_model(self, model: str) -> Candidates:
        """Hosts that hold the model, then those that did not say; all of them if none does."""
        hosts = self._models.hosts
        if len(hosts) == 1:
            return Candidates(hosts)
        looks = await self._looked_at(hosts)
        name = canonical(model)
        holding = tuple(host for host in hosts if name in (looks[host].held or ()))
        silent = tuple(host for host in hosts if looks[host].held is None)
        may = holding + silent if holding else hosts
        return Candidates(may, tuple(host for host in may if name in looks[host].loaded))

    async def all_models(self) -> tuple[ModelInfo, ...]:
        """What any host holds, by name; raises `Unavailable` where none answers."""
        hosts = self._models.hosts
        if len(hosts) == 1:
            return await self._models.list_models()
        looks = await self._looked_at(hosts)
        speaking = [host for host in hosts if looks[host].held is not None]
        calls = (
            self._models.list_models(host=host, limit_s=self._look_limit_s)
            for host in speaking or hosts
        )
        found = await asyncio.gather(*calls, return_exceptions=True)
        lists = [one for one in found if not isinstance(one, BaseException)]
        if not lists:
            raise next(one for one in found if isinstance(one, BaseException))
        by_name = {model.name: model for one in reversed(lists) for model in one}
        return tuple(by_name[name] for name in sorted(by_name))

    async def ping(self) -> None:
        """Raises `Unavailable` unless one of them answers."""
        pings = (self._models.ping(host=host) for host in self._models.hosts)
        found = await asyncio.gather(*pings, return_exceptions=True)
        if all(isinstance(one, BaseException) for one in found):
            raise next(one for one in found if isinstance(one, BaseException))

    async def _looked_at(self, hosts: Sequence[str]) -> dict[str, _Look]:
        now_s = asyncio.get_running_loop().time()
        awaited = []
        for host in hosts:
            last = self._looks.get(host)
            if last is None or now_s - last.at_s > self._fresh_s:
                if host not in self._looking:
                    self._looking[host] = asyncio.create_task(self._look(host))
                if last is None or last.held is not None:
                    awaited.append(self._looking[host])
        if awaited:
            await asyncio.wait(awaited)
        return {host: self._looks.get(host, _NEVER) for host in hosts}

    async def _look(self, host: str) -> None:
        limit_s = self._look_limit_s
        held: frozenset[str] | None = None
        loaded: frozenset[str] = frozenset()
        try:
            holds, runs = await asyncio.gather(
                self._models.list_models(host=host, limit_s=limit_s),
                self._models.list_running(host=host, limit_s=limit_s),
            )
            held = frozenset(canonical(one.name) for one in holds)
            loaded = frozenset(canonical(one.name) for one in runs)
        except LambentError:
            pass
        finally:
            del self._looking[host]
        self._looks[host] = _Look(asyncio.get_running_loop().time(), held, loaded)
