"""`ChatAgent`: talks with the model, as it is, about anything."""

from __future__ import annotations

from collections.abc import AsyncIterator

from lambent.agents.agent import Agent, Chunk, agent
from lambent.agents.turn import Turn
from lambent.models.values import Role

SYSTEM = "You are a helpful assistant. Answer clearly and briefly. Say so when you do not know."


@agent(
    "chat",
    description="Talks with the model about anything.",
    examples=("Why is the sky blue?",),
)
class ChatAgent(Agent):
    """The seed's first agent; a system message of the request's own replaces its prompt."""

    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        told_how = any(message.role is Role.system for message in turn.messages)
        async for chunk in turn.generate_stream(system=None if told_how else SYSTEM):
            yield chunk
