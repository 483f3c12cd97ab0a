"""What a turn used of the models, as it is booked: cumulative, numbered, with its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lambent.model_names import canonical
from lambent.setting_values import ModelPrice

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """All that one turn has had of one model so far; `model` is its canonical name.

    `requests` are calls that the model answered; `broken` of them ended before the server told
    their tokens: then `completion_tokens` are the pieces that came, and `estimated_tokens` stand
    for the prompt.
    """

    model: str
    requests: int
    broken: int
    prompt_tokens: int
    completion_tokens: int
    estimated_tokens: int
    model_s: float

    def __post_init__(self) -> None:
        # Here, so that no spelling of a request gets past the price or splits a report.
        object.__setattr__(self, "model", canonical(self.model))


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Whose use it is. `key_id` None: a run's own; `agent` "": the model itself was asked."""

    client: str
    key_id: str | None
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnUse:
    """One booking. `turn` names the turn for all its bookings, `seq` rises with each."""

    turn: str
    seq: int
    payer: Payer
    models: tuple[ModelUse, ...]


def cost_of(use: ModelUse, prices: Mapping[str, ModelPrice]) -> float:
    """What it costs, by prices under canonical names; nothing where the model has none."""
    price = prices.get(use.model) or prices.get("*")
    if price is None:
        return 0.0
    prompt = use.prompt_tokens + use.estimated_tokens
    cost = (prompt * price.prompt + use.completion_tokens * price.completion) / _MILLION
    return round(cost, 9)
