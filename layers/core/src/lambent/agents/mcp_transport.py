"""HTTP below the MCP package: whatever happens to a request becomes an answer to that request.

Without it one refused connection ends the whole session, with every call that is under way. Here
each request gets an error of its own, whose code tells whether the server can have acted on it.
Loaded with the package, by the first use of a server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2

from lambent.agents.mcp_tokens import Token

# Codes of our own, outside of what JSON-RPC and MCP use.
UNREACHED: Final = -31001
SESSION_LOST: Final = -31002
CUT_OFF: Final = -31003
REFUSED: Final = -31004
TOO_LARGE: Final = -31005
NOT_RUN: Final = frozenset({UNREACHED, SESSION_LOST})

LIMIT_BYTES: Final = 4_000_000
_NEVER_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_SESSION: Final = "mcp-session-id"
_GONE: Final = {400, 404}


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Bounds what an answer may hold, sends the token, and takes up a rotated one.

    The package follows redirects within the server's own origin; so the token goes nowhere else.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, token: Token) -> None:
        self._inner = inner
        self._token = token

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET" and "last-event-id" not in request.headers:
            # A stream for what the server says unasked: nobody here would listen.
            return httpx2.Response(405, request=request)
        try:
            answer = await self._sent(request)
            return await self._checked(request, answer)
        except _NEVER_SENT as error:
            return _failure(request, UNREACHED, f"it does not answer ({type(error).__name__})")
        except httpx2.TransportError as error:
            return _failure(request, CUT_OFF, f"the connection was lost ({type(error).__name__})")

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        told = self._token.value
        answer = await self._send(request, told)
        if answer.status_code == 401 and told and await self._token.renew(told):
            await answer.aclose()
            answer = await self._send(request, self._token.value)
        return answer

    async def _send(self, request: httpx2.Request, token: str) -> httpx2.Response:
        if token:
            request.headers["authorization"] = f"Bearer {token}"
        return await self._inner.handle_async_request(request)

    async def _checked(self, request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        status = answer.status_code
        # Asked for as it is: a compressed megabyte could unpack to a thousand.
        packed = answer.headers.get("content-encoding", "identity").lower() != "identity"
        if packed or status in {401, 403} or (status in _GONE and _SESSION in request.headers):
            await answer.aclose()
            if packed:
                return _failure(request, CUT_OFF, "it answers compressed, which was not asked for")
            if status in _GONE:
                return _failure(request, SESSION_LOST, "it does not know the session any more")
            return _failure(request, REFUSED, f"it refuses this platform (HTTP {status})")
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            stream = _Bounded(answer.stream)
            return httpx2.Response(status, headers=answer.headers, stream=stream, request=request)
        try:
            body = b"".join([piece async for piece in _Bounded(answer.stream)])
        except httpx2.SSEError:
            return _failure(request, TOO_LARGE, _TOO_LARGE)
        finally:
            await answer.aclose()
        if status >= 500 and not body.lstrip().startswith(b"{"):
            return _failure(request, CUT_OFF, f"it failed (HTTP {status})")
        return httpx2.Response(status, headers=answer.headers, content=body, request=request)


_TOO_LARGE: Final = f"it answered with more than {LIMIT_BYTES} bytes"


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for piece in self._inner:
            seen += len(piece)
            if seen > LIMIT_BYTES:
                # The one error that the package tells whoever waits for the answer.
                raise httpx2.SSEError(_TOO_LARGE)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def _failure(request: httpx2.Request, code: int, message: str) -> httpx2.Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return httpx2.Response(502, json=error, request=request)
