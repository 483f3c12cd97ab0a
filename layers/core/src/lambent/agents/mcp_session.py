"""`McpSession`: one session with one MCP server, through the official package.

It stands in a task of its own: what the package opens must be closed by the task that opened it,
and calls come from many. Loaded, with the package, by the first use of a server.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED, CallToolResult, Implementation, RequestParamsMeta, Tool

from lambent.agents.mcp_tokens import Token
from lambent.agents.mcp_transport import CUT_OFF, LIMIT_BYTES, NOT_RUN, GuardedTransport
from lambent.agents.tools import ToolFailed
from lambent.setting_values import McpServer
from lambent.telemetry import log_fields, logger

# The call's name, the same where a durable agent makes it again: what a server may deduplicate by.
CALL_ID: Final = "lambent.dev/call"
_WE: Final = Implementation(name="lambent", version="1")
_CONNECT_S: Final = 3.0
_OPEN_S: Final = 8.0
_CLOSE_S: Final = 1.0
_MOST_PAGES: Final = 10


class SessionLost(Exception):
    """The server cannot have acted on what it was asked: ask again in another session."""


class McpSession:
    """Opened once, then called from any task, then closed."""

    def __init__(self, server: McpServer, token: Token) -> None:
        self._server = server
        self._token = token
        self._open: asyncio.Future[tuple[Client, list[Tool]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._stand())

    async def tools(self) -> list[Tool]:
        """What the server had when the session began. Raises `ToolFailed`."""
        return (await self._opened())[1]

    async def call(self, name: str, arguments: Mapping[str, Any], *, id: str) -> CallToolResult:
        """Raises `SessionLost`, and `ToolFailed` for whatever else gives no result."""
        client, _ = await self._opened()
        meta = cast(RequestParamsMeta, {CALL_ID: id})
        try:
            return await client.call_tool(name, dict(arguments), meta=meta)
        except MCPError as error:
            if error.code in NOT_RUN:
                raise SessionLost(self._said(error.message)) from None
            if error.code in {CUT_OFF, CONNECTION_CLOSED}:
                said = f"{self._said(error.message)} Whether the call took effect is not known."
                raise ToolFailed(said) from None
            raise ToolFailed(self._said(error.message)) from None

    async def close(self) -> None:
        """Say goodbye, within bounds."""
        self._over.set()
        await asyncio.wait({self._task}, timeout=_CLOSE_S)
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CLOSE_S)

    async def _opened(self) -> tuple[Client, list[Tool]]:
        # Whoever gives up waiting leaves it to those who go on.
        return await asyncio.shield(self._open)

    async def _stand(self) -> None:
        try:
            async with asyncio.timeout(_OPEN_S) as limit, self._http() as http:
                transport = streamable_http_client(
                    self._server.url, http_client=http, max_sse_event_size=LIMIT_BYTES
                )
                async with Client(transport, cache=None, client_info=_WE) as client:
                    self._open.set_result((client, await _all_tools(client)))
                    limit.reschedule(None)
                    await self._over.wait()
        except asyncio.CancelledError:
            self._failed(ToolFailed(self._said("the session was closed")))
            raise
        # The package wraps what went wrong in groups of groups; a session is an edge.
        except (Exception, BaseExceptionGroup) as error:
            self._failed(ToolFailed(self._said(_why(error))))

    def _failed(self, error: ToolFailed) -> None:
        if not self._open.done():
            self._open.set_exception(error)
            self._open.exception()  # it may be that nobody waits
        elif not self._over.is_set():
            fields = log_fields(server=self._server.name, detail=error.detail)
            logger().warning("A session with an MCP server broke", **fields)

    def _http(self) -> httpx2.AsyncClient:
        inner = httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False)
        # How long an answer may take is its tool's affair.
        limits = httpx2.Timeout(None, connect=_CONNECT_S, write=_OPEN_S, pool=_OPEN_S)
        return httpx2.AsyncClient(
            transport=GuardedTransport(inner, self._token),
            headers={"accept-encoding": "identity"},
            timeout=limits,
            trust_env=False,
        )

    def _said(self, why: str) -> str:
        return f"The MCP server {self._server.name}: {why.rstrip('.')[:2000]}."


async def _all_tools(client: Client) -> list[Tool]:
    found: list[Tool] = []
    cursor = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _why(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _why(error.exceptions[0])
    if isinstance(error, TimeoutError):
        return f"it did not answer within {_OPEN_S:g} s"
    return error.message if isinstance(error, MCPError) else f"{type(error).__name__}"


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # Loading the certificate store takes 30 ms: once for all sessions.
    return httpx2.create_ssl_context(trust_env=False)
