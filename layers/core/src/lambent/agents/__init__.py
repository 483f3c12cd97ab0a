"""Agents: their base and registry, the turn they answer, and what they may reach through it.

An author needs `agent`, `Agent`, `Chunk`, `Source` (from `agents.agent`) and `Turn` (from
`agents.turn`); everything else is the platform's side.
"""
