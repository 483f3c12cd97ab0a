"""The agents and workflows of this deployment: yours to edit.

Every module of this package is imported when a function starts, so a new agent is one new file:

    \"\"\"Answers as a pirate.\"\"\"

    from collections.abc import AsyncIterator

    from lambent.agents.agent import Agent, Chunk, agent
    from lambent.agents.turn import Turn


    @agent("pirate", description="Answers as a pirate would.")
    class PirateAgent(Agent):
        async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
            async for chunk in turn.generate_stream(system="You are a pirate."):
                yield chunk

`AGENT_MODULES` names other modules or packages instead. A module that cannot be imported, and a
name that is taken twice, are reported together when the function starts.
"""
