"""A real MCP server, made with the official package: `mcp_shelf.py PORT FOLDER ERA`.

Each call of `note` is a line of FOLDER/notes, each request's method a line of FOLDER/requests.
FOLDER/token, where it is there, holds the one token that is good, FOLDER/moved where requests are
sent on to. ERA "legacy" is a server that knows sessions and nothing newer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp_types import EmbeddedResource, ResourceLink, TextResourceContents


def build(folder: Path) -> Any:
    server = MCPServer("shelf")
    counts: dict[Any, int] = {}

    @server.tool(structured_output=False)
    def add(left: int, right: int = 1) -> str:
        """Add two numbers."""
        return str(left + right)

    @server.tool()
    def weigh(thing: str) -> dict[str, int]:
        """Weigh a thing."""
        return {"grams": len(thing)}

    @server.tool(structured_output=False)
    async def fail() -> str:
        """Fail."""
        raise ValueError("out of paper")

    @server.tool(structured_output=False)
    async def hang() -> str:
        """Never come back."""
        await asyncio.Event().wait()
        return ""

    @server.tool(structured_output=False)
    def big(size: int) -> str:
        """Give so many characters."""
        return "x" * size

    @server.tool(structured_output=False)
    def mixed() -> list[Any]:
        """Give of everything."""
        text = TextResourceContents(uri="memo://1", text="a memo", mime_type="text/plain")
        link = ResourceLink(type="resource_link", name="plan", uri="file:///plan.pdf")
        picture = Image(data=b"\x89PNG" * 3, format="png")
        return ["words", picture, link, EmbeddedResource(type="resource", resource=text)]

    @server.tool(structured_output=False)
    async def note(word: str, ctx: Context, wait_s: float = 0) -> str:
        """Note a word."""
        meta = ctx.request_context.meta or {}
        with (folder / "notes").open("a") as notes:
            notes.write(f"{word} {meta.get('lambent.dev/call')}\n")
        await asyncio.sleep(wait_s)
        return f"noted {word}"

    @server.tool(structured_output=False)
    async def count(ctx: Context) -> str:
        """Count the calls of this session."""
        key = ctx.request_context.request.headers.get("mcp-session-id")
        counts[key] = counts.get(key, 0) + 1
        return str(counts[key])

    @server.tool(name="files/read.all", structured_output=False)
    def read_all() -> str:
        """Read all."""
        return "all"

    return server


class _Gate:
    """Notes requests, asks for the token, and may play a server of an older protocol."""

    def __init__(self, app: Any, folder: Path, era: str) -> None:
        self._app, self._folder, self._era = app, folder, era

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        message = await receive()
        body = json.loads(message.get("body") or b"{}")
        method = body.get("method", scope["method"])
        with (self._folder / "requests").open("a") as requests:
            requests.write(f"{method}\n")
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        token = self._folder / "token"
        if token.exists() and headers.get("authorization") != f"Bearer {token.read_text()}":
            return await _answer(send, 401, b"")
        moved = self._folder / "moved"
        if moved.exists():
            place = (b"location", moved.read_bytes())
            return await _answer(send, 307, b"", place)
        if self._era == "legacy" and method == "server/discover":
            error = {"code": -32601, "message": "Method not found"}
            told = {"jsonrpc": "2.0", "id": body["id"], "error": error}
            kind = (b"content-type", b"application/json")
            return await _answer(send, 400, json.dumps(told).encode(), kind)
        pending = [message]

        async def again() -> Any:
            return pending.pop() if pending else await receive()

        await self._app(scope, again, send)


async def _answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    place = Path(sys.argv[2])
    served = _Gate(build(place).streamable_http_app(), place, sys.argv[3])
    # Its lifespan is the inner application's: uvicorn hands it through.
    inner = served._app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (inner if scope["type"] == "lifespan" else served)(scope, receive, send)

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
    os._exit(0)
