"""`McpServers`: the MCP servers of a deployment, what they have, and the calls of a turn.

What a server has is asked once in five minutes for all turns of an environment; where it does not
answer then, the turn goes on with what was known, or without. The package is loaded by the first
turn of an agent that names a server, off the event loop: it takes half a second.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lambent.agents.mcp_results import result_text
from lambent.agents.mcp_tokens import Token
from lambent.agents.mcp_tools import Listing, McpTools, listed, tools_of
from lambent.agents.tools import Tool, ToolFailed
from lambent.clock import Clock
from lambent.errors import LambentError
from lambent.models.values import Message, Role
from lambent.rotation import RotatingSecret
from lambent.setting_values import McpServer
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from lambent.agents.mcp_session import McpSession

_LISTED_S: Final = 300.0
# A server that did not answer is left in peace for so long: else each turn would wait for it.
_AGAIN_S: Final = 10.0
# The one that there is, and another one where the server has lost it.
_SESSIONS: Final = 2

ListAll = Callable[[Sequence[str]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Known:
    listing: Listing
    until_s: float


@dataclass(frozen=True, slots=True)
class Offered:
    """The tools for a turn, and what its model is told of servers that cannot be reached."""

    tools: tuple[Tool, ...] = ()
    notes: tuple[Message, ...] = ()


class McpServers:
    """One for each environment."""

    def __init__(
        self, servers: Sequence[McpServer], tokens: RotatingSecret, *, clock: Clock
    ) -> None:
        self._servers = {one.name: one for one in servers}
        self._tokens = tokens
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[Listing]] = {}

    async def list_all(self, names: Sequence[str]) -> dict[str, Any]:
        """The records of what these servers have; takes 8 s at most, and raises nothing."""
        found = await asyncio.gather(*(self.listing(one) for one in names))
        return {name: one.record() for name, one in zip(names, found, strict=True)}

    async def listing(self, name: str) -> Listing:
        """What the server has, as known for a while; all who ask at once ask once."""
        known = self._known.get(name)
        if known is not None and self._clock.monotonic_s() < known.until_s:
            return known.listing
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._ask(name))
            asking.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(asking)

    async def session(self, name: str) -> McpSession:
        """A new one, being opened. Raises `ToolFailed`."""
        server = self._servers.get(name)
        if server is None:
            raise ToolFailed(f"MCP_SERVERS names no server {name}.")
        try:
            await asyncio.to_thread(importlib.import_module, "lambent.agents.mcp_session")
        except ImportError as error:
            raise ToolFailed(f"The package mcp is not installed ({error}).") from error
        from lambent.agents.mcp_session import McpSession

        return McpSession(server, Token(name, self._tokens))

    async def _ask(self, name: str) -> Listing:
        now_s = self._clock.monotonic_s
        try:
            session = await self.session(name)
            try:
                told = await session.tools()
            finally:
                await session.close()
        except LambentError as error:
            before = self._known.get(name)
            tools = before.listing.tools if before is not None else ()
            listing = Listing(tools, "" if tools else error.detail)
            self._known[name] = _Known(listing, now_s() + _AGAIN_S)
            fields = log_fields(server=name, detail=error.detail)
            logger().warning("An MCP server cannot be asked what it has", **fields)
            return listing
        found, left_out = listed([(o.name, o.description or "", o.input_schema) for o in told])
        if left_out:
            fields = log_fields(server=name, left_out=left_out[:20])
            logger().warning("Some tools of an MCP server are not offered", **fields)
        listing = Listing(tuple(found))
        self._known[name] = _Known(listing, now_s() + _LISTED_S)
        return listing


@dataclass(slots=True)
class TurnCalls:
    """The calls of one turn, over sessions that are this turn's alone: what a server keeps for a
    session is never shown to another turn, or to another client."""

    servers: McpServers
    _sessions: dict[str, asyncio.Task[McpSession]] = field(default_factory=dict)
    _lost: list[McpSession] = field(default_factory=list)

    async def call(self, server: str, name: str, arguments: Mapping[str, Any], *, id: str) -> str:
        """The result in words. Raises `ToolFailed`.

        A session that the server has lost is opened anew, once: it cannot have acted on the call.
        """
        from lambent.agents.mcp_session import SessionLost

        said = ""
        for _ in range(_SESSIONS):
            session = await self._session(server)
            try:
                return result_text(await session.call(name, arguments, id=id))
            except SessionLost as error:
                self._drop(server, session)
                said = str(error)
        raise ToolFailed(said)

    async def close(self) -> None:
        """End the turn's sessions."""
        opening = list(self._sessions.values())
        for task in opening:
            task.cancel()
        for found in await asyncio.gather(*opening, return_exceptions=True):
            if not isinstance(found, BaseException):
                self._lost.append(found)
        await asyncio.gather(*(one.close() for one in self._lost))

    async def _session(self, server: str) -> McpSession:
        opening = self._sessions.get(server)
        if opening is None:
            opening = asyncio.create_task(self._open(server))
            self._sessions[server] = opening
            # Whoever asked for it may have given up waiting.
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(opening)

    async def _open(self, server: str) -> McpSession:
        session = await self.servers.session(server)
        try:
            await session.tools()
        except BaseException:
            self._sessions.pop(server, None)
            await session.close()
            raise
        return session

    def _drop(self, server: str, session: McpSession) -> None:
        opening = self._sessions.get(server)
        # Somebody else may have opened another one meanwhile.
        if opening is not None and opening.done() and opening.result() is session:
            del self._sessions[server]
            self._lost.append(session)


@asynccontextmanager
async def offered(
    wanted: Sequence[McpTools],
    servers: Callable[[], McpServers] | None,
    *,
    list_all: ListAll | None = None,
) -> AsyncIterator[Offered]:
    """The tools that an agent takes of MCP servers, for as long as its turn lasts.

    `list_all`: asks in the servers' stead, and keeps what was found.
    """
    if not wanted or servers is None:
        yield Offered()
        return
    there = servers()
    records = await (list_all or there.list_all)([one.server for one in wanted])
    calls = TurnCalls(there)
    tools: list[Tool] = []
    away: list[str] = []
    for one in wanted:
        listing = Listing.of(records[one.server])
        tools += tools_of(one, listing, calls)
        if listing.problem:
            away.append(listing.problem)
    try:
        yield Offered(tuple(tools), _notes(away))
    finally:
        await calls.close()


def _notes(away: Sequence[str]) -> tuple[Message, ...]:
    if not away:
        return ()
    said = "Some tools are not available now; say so if you would need them."
    return (Message(role=Role.system, content=" ".join([said, *away])),)
