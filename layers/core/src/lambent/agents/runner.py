"""Runs an agent for a turn and holds its code to what it promised, whatever it does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

from lambent.agents.agent import Agent, Chunk
from lambent.agents.turn import Turn
from lambent.errors import LambentError
from lambent.telemetry import log_fields, logger


class AgentFailed(LambentError):
    """The agent's code raised, or yielded what is no chunk, or nothing at all."""

    code = "agent_failed"
    title = "The agent failed"


async def run_agent(cls: type[Agent], turn: Turn) -> AsyncGenerator[Chunk, None]:
    """The chunks of the agent's answer; raises only errors of the platform's tree.

    What the agent raised is chained as the cause, for the log; a client does not see it.
    """
    stream = _start(cls, turn)
    got_any = False
    try:
        async for chunk in stream:
            if not isinstance(chunk, Chunk):
                raise AgentFailed(f"The agent yielded {type(chunk).__name__}, not Chunk.")
            got_any = True
            yield chunk
    except LambentError:
        raise
    except Exception as error:  # author's code is an edge: it may raise anything
        raise AgentFailed("The agent raised an error.") from error
    finally:
        await _close(stream, turn)
    if not got_any:
        raise AgentFailed("The agent yielded nothing.")


def _start(cls: type[Agent], turn: Turn) -> AsyncIterator[Any]:
    try:
        stream: Any = cls().generate_stream(turn)
    except LambentError:
        raise
    except Exception as error:  # as above
        raise AgentFailed("The agent raised an error.") from error
    if isinstance(stream, Coroutine):
        stream.close()
    if not isinstance(stream, AsyncIterator):
        raise AgentFailed("The agent's generate_stream is no async generator.")
    return stream


async def _close(stream: AsyncIterator[Any], turn: Turn) -> None:
    if not isinstance(stream, AsyncGenerator):
        return
    try:
        await stream.aclose()
    except Exception:  # its clean-up failed; what it answered stands
        logger().exception("An agent failed while it was closed", **log_fields(turn=turn.id))
