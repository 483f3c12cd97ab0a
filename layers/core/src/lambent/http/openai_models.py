"""Lists what a request's `model` may name: the model server's models, and agents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lambent.agents.agent import AgentInfo
from lambent.errors import UnknownModel
from lambent.http.openai_requests import AGENT_PREFIX
from lambent.model_names import canonical
from lambent.models.values import ModelInfo


def list_of(models: Sequence[ModelInfo], agents: Sequence[AgentInfo]) -> dict[str, Any]:
    """The answer of `GET /v1/models`."""
    data = [_agent(one) for one in agents] + [_model(one) for one in models]
    return {"object": "list", "data": data}


def one_of_all(id: str, models: Sequence[ModelInfo], agents: Sequence[AgentInfo]) -> dict[str, Any]:
    """The answer of `GET /v1/models/{id}`; raises `UnknownModel`."""
    for agent in agents:
        if id == f"{AGENT_PREFIX}{agent.name}":
            return _agent(agent)
    for model in models:
        if canonical(model.name) == canonical(id):
            return {**_model(model), "id": id}
    raise UnknownModel(f"The model {id[:200]!r} does not exist.")


def _model(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "created": _seconds(info.modified_at),
        "owned_by": "ollama",
    }


def _agent(info: AgentInfo) -> dict[str, Any]:
    return {
        "id": f"{AGENT_PREFIX}{info.name}",
        "object": "model",
        "created": 0,
        "owned_by": "lambent",
        "description": info.description,
    }


def _seconds(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0
