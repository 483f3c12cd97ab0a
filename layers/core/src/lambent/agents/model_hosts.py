"""`ModelHosts`: which of several model servers may be asked for a model, and have it ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lambent.admission.decisions import Candidates
from lambent.errors import LambentError
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


class ModelHosts:
    """One host is never asked anything; several are looked at again after a few seconds."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models
        self._looks: dict[str, _Look] = {}

    async def for_model(self, model: str) -> Candidates:
        """Hosts that hold the model, and those that did not say; all of them if none does."""
        hosts = self._models.hosts
        if len(hosts) == 1:
            return Candidates(hosts)
        await self._look_again(hosts)
        name = _whole(model)
        looks = {host: self._looks[host] for host in hosts}
        may = tuple(host for host, look in looks.items() if look.held is None or name in look.held)
        if all(looks[host].held is None for host in may):
            may = hosts
        return Candidates(may, tuple(host for host in may if name in looks[host].loaded))

    async def all_models(self) -> tuple[ModelInfo, ...]:
        """What any host holds, by name; raises `Unavailable` where none answers."""
        hosts = self._models.hosts
        found = await asyncio.gather(
            *(self._models.list_models(host=host) for host in hosts), return_exceptions=True
        )
        lists = [one for one in found if not isinstance(one, BaseException)]
        if not lists:
            raise next(one for one in found if isinstance(one, BaseException))
        by_name = {model.name: model for one in reversed(lists) for model in one}
        return lists[0] if len(hosts) == 1 else tuple(by_name[name] for name in sorted(by_name))

    async def ping(self) -> None:
        """Raises `Unavailable` unless one of them answers."""
        pings = (self._models.ping(host=host) for host in self._models.hosts)
        found = await asyncio.gather(*pings, return_exceptions=True)
        if all(isinstance(one, BaseException) for one in found):
            raise next(one for one in found if isinstance(one, BaseException))

    async def _look_again(self, hosts: Sequence[str]) -> None:
        now_s = asyncio.get_running_loop().time()
        stale = [
            host
            for host in hosts
            if (look := self._looks.get(host)) is None or now_s - look.at_s > _FRESH_S
        ]
        for host, look in zip(stale, await asyncio.gather(*map(self._look, stale)), strict=True):
            self._looks[host] = look

    async def _look(self, host: str) -> _Look:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOK_LIMIT_S):
                held, loaded = await asyncio.gather(
                    self._models.list_models(host=host), self._models.list_running(host=host)
                )
        except (LambentError, TimeoutError):
            return _Look(loop.time(), None, frozenset())
        return _Look(
            loop.time(),
            frozenset(_whole(one.name) for one in held),
            frozenset(_whole(one.name) for one in loaded),
        )


def _whole(model: str) -> str:
    """With its tag, as the servers tell it."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"
