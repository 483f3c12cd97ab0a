"""`Loans`: a turn's calls of models that its own host does not hold, each at another host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lambent.admission.decisions import AdmissionRequest
from lambent.admission.gate import Gate
from lambent.admission.usage import Payer
from lambent.agents.booking import Booking
from lambent.agents.model_access import ModelAccess
from lambent.agents.model_hosts import ModelHosts
from lambent.model_names import canonical
from lambent.models.manager import ModelManager


class Loans:
    """Each is a grant of its own, held for one call beside the turn's; `model` is the turn's.

    The turn keeps its slot meanwhile, lest it break off for want of another. Turns that wait for
    each other's hosts are parted by the limit on waiting for a slot.
    """

    def __init__(
        self, gate: Gate, hosts: ModelHosts, models: ModelManager, *, payer: Payer, model: str
    ) -> None:
        self._gate = gate
        self._hosts = hosts
        self._models = models
        self._payer = payer
        self._model = canonical(model)

    def owns(self, model: str) -> bool:
        """Whether it is the turn's own, which its host is known to hold."""
        return canonical(model) == self._model

    @asynccontextmanager
    async def access_to(self, model: str, *, host: str | None) -> AsyncIterator[ModelAccess | None]:
        """At a host that holds the model; None where the turn's own `host` will do.

        Raises whatever refuses the grant.
        """
        if host is None or self.owns(model):
            yield None
            return
        among = await self._hosts.for_model(model)
        if host in among.hosts:
            yield None
            return
        asked = AdmissionRequest.for_client(self._payer.client, among, begun=True)
        grant = await self._gate.granted(asked)
        access = ModelAccess(self._models)
        booking = Booking(self._gate, grant, payer=self._payer, access=access, among=among)
        try:
            async with booking.keeping():
                yield access
        finally:
            await booking.finish()
