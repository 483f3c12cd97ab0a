"""One embedding call: waits for its slot, asks the model, and books how the model did."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from lambent.admission.decisions import Admitted, Candidates, Grant, LimitState, Queued, Refused
from lambent.admission.gate import Gate
from lambent.admission.usage import Payer
from lambent.agents.booking import Booking
from lambent.agents.model_access import ModelAccess
from lambent.models.manager import ModelManager
from lambent.models.values import Embeddings


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors, and the caller's limit after admission."""

    embeddings: Embeddings
    limit: LimitState | None


async def embed(
    decision: Admitted | Queued,
    gate: Gate,
    *,
    models: ModelManager,
    model: str,
    inputs: Sequence[str],
    among: Candidates,
) -> Embedded:
    """One vector for each whole input. Raises `NoSlot`, `BreakerOpen` and what the model raises."""
    grant = await _granted(decision, gate)
    access = ModelAccess(models)
    principal = decision.principal
    payer = Payer(client=principal.client, key_id=principal.key_id, agent="")
    booking = Booking(gate, grant, payer=payer, access=access, among=among)
    try:
        async with booking.keeping():
            return Embedded(await access.embed(model, inputs, whole=True), decision.limit)
    finally:
        await booking.finish()


async def _granted(decision: Admitted | Queued, gate: Gate) -> Grant:
    if isinstance(decision, Admitted):
        return decision.grant
    async with aclosing(gate.wait(decision)) as places:
        async for place in places:
            match place:
                case Admitted():
                    return place.grant
                case Refused():
                    raise place.error
                case Queued():
                    pass
    raise AssertionError("the queue ends with an admission or a refusal")
