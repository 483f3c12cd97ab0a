"""Calls a model server over Ollama's native API: generations as streams, and its small calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import httpx

from lambent.clock import Clock
from lambent.errors import ModelUnavailable
from lambent.models import wire
from lambent.models.connections import Connections
from lambent.models.failures import status_failure, transport_failure
from lambent.models.values import (
    Embeddings,
    ModelChunk,
    ModelDetails,
    ModelInfo,
    ModelRequest,
    RunningModel,
)
from lambent.rotation import RotatingSecret
from lambent.settings import Settings

T = TypeVar("T")

# Beyond this something other than a model is talking; Ollama's own lines are far smaller.
_LINE_BYTES: Final = 8_000_000
_ERROR_BODY_BYTES: Final = 64_000
_SMALL_CALL_S: Final = 5.0
_DRAIN_S: Final = 0.25
_TRANSPORT: Final = (httpx.HTTPError, httpx.InvalidURL, TimeoutError)


class ModelManager:
    """The model server as seen by agents; `host` names one where the platform has several.

    Every failure is one of `errors`, sorted as `failures` tells. Closing a stream's iterator, or
    cancelling the task that reads it, closes the connection, and that stops the generation.
    """

    def __init__(
        self, settings: Settings, *, clock: Clock, key: RotatingSecret | None = None
    ) -> None:
        """`key`: the bearer token, where it may change; else it is that of the settings."""
        self.hosts = settings.ollama_hosts
        self._host = self.hosts[0]
        self._first_token_s = settings.ollama_first_token_timeout_s
        self._next_token_s = settings.ollama_next_token_timeout_s
        self._headers = httpx.Headers(
            {"accept-encoding": "identity", "content-type": "application/json"}
        )
        self._key = key or RotatingSecret("OLLAMA_API_KEY", settings.ollama_api_key, clock=clock)
        self._timeouts = {"connect": settings.ollama_connect_timeout_s}
        self._connections = Connections(
            clock=clock, tls=any(host.startswith("https:") for host in self.hosts)
        )

    @property
    def host(self) -> str:
        """The address of the model server where a call names none: the first of `hosts`."""
        return self._host

    async def generate_stream(
        self, request: ModelRequest, *, host: str | None = None
    ) -> AsyncGenerator[ModelChunk, None]:
        """Stream one generation; the last chunk, and only that, has `end`.

        Raises `UnknownModel`, `ModelRefused`, `ModelBusy`, `ModelTimeout` or `ModelUnavailable`,
        before the first chunk or, the last two, also later.
        """
        loop = asyncio.get_running_loop()
        first_by = loop.time() + self._first_token_s
        body = wire.chat_body(request)
        async with (
            self._answer(self._url(host, "/api/chat"), body, by=first_by) as answer,
            aclosing(self._lines(answer, by=first_by)) as lines,
        ):
            async for line in lines:
                chunk = wire.read_chunk(line)
                if chunk.content or chunk.end or chunk.tool_calls or chunk.thinking:
                    yield chunk
                if chunk.end:
                    # Read to the end of the answer, or the connection could not be kept.
                    await _drain(lines)
                    return
        raise ModelUnavailable("The model server ended its answer halfway.")

    async def embed(
        self, model: str, inputs: Sequence[str], *, host: str | None = None, whole: bool = False
    ) -> Embeddings:
        """One vector for each input, of as much of it as fits; `whole` ones are refused else."""
        body: dict[str, Any] = {"model": model, "input": list(inputs)}
        if whole:
            body["truncate"] = False
        # A model may have to be loaded first, as for a first token.
        record = await self._call("/api/embed", body, host=host, limit_s=self._first_token_s)
        found = _read(wire.read_embeddings, record)
        if len(found.vectors) != len(inputs):
            raise ModelUnavailable("The model server gave another number of vectors than texts.")
        return found

    async def list_models(
        self, *, host: str | None = None, limit_s: float = _SMALL_CALL_S
    ) -> tuple[ModelInfo, ...]:
        """The models that the server holds."""
        record = await self._call("/api/tags", host=host, limit_s=limit_s)
        return _read(wire.read_models, record)

    async def list_running(
        self, *, host: str | None = None, limit_s: float = _SMALL_CALL_S
    ) -> tuple[RunningModel, ...]:
        """The models that the server has loaded."""
        record = await self._call("/api/ps", host=host, limit_s=limit_s)
        return _read(wire.read_running, record)

    async def show(self, model: str, *, host: str | None = None) -> ModelDetails:
        """What the server knows of one model; raises `UnknownModel`."""
        record = await self._call("/api/show", {"model": model}, host=host)
        return _read(lambda read: wire.read_details(model, read), record)

    async def ping(self, *, host: str | None = None, limit_s: float = _SMALL_CALL_S) -> str:
        """The server's version; raises `ModelUnavailable` where it does not answer."""
        record = await self._call("/api/version", host=host, limit_s=limit_s)
        return str(record.get("version", ""))

    async def stream_lines(
        self, path: str, body: dict[str, Any], *, host: str, silence_s: float
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a long answer, each within `silence_s` of the one before."""
        by = asyncio.get_running_loop().time() + silence_s
        async with (
            self._answer(self._url(host, path), wire.encode(body), by=by) as answer,
            aclosing(self._lines(answer, by=by, silence_s=silence_s)) as lines,
        ):
            async for line in lines:
                yield line

    async def close(self) -> None:
        """Close idle connections; the next call makes new ones."""
        await self._connections.close()

    def _url(self, host: str | None, path: str) -> str:
        return f"{host or self._host}{path}"

    async def call(
        self,
        path: str,
        body: dict[str, Any],
        *,
        host: str,
        limit_s: float = _SMALL_CALL_S,
        method: str = "POST",
    ) -> None:
        """Ask for something to be done; the answer is of no interest."""
        by = asyncio.get_running_loop().time() + limit_s
        content = wire.encode(body)
        async with self._answer(self._url(host, path), content, by=by, method=method) as answer:
            await _read_some(answer, by=by)

    async def _call(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        host: str | None,
        limit_s: float = _SMALL_CALL_S,
    ) -> dict[str, Any]:
        by = asyncio.get_running_loop().time() + limit_s
        content = None if body is None else wire.encode(body)
        async with self._answer(self._url(host, path), content, by=by) as answer:
            try:
                async with asyncio.timeout_at(by):
                    data = await answer.aread()
            except _TRANSPORT as error:
                raise transport_failure(error) from error
        try:
            record = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelUnavailable("The model server's answer is no JSON.") from error
        if not isinstance(record, dict):
            raise ModelUnavailable("The model server's answer is no JSON object.")
        return record

    @asynccontextmanager
    async def _answer(
        self, url: str, content: bytes | None, *, by: float, method: str | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The server's answer once its status is 200; its connection is given back at the end."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout_at(by):
                    answer = await self._send(held, url, content, method=method)
                    key = self._key.value
                    if answer.status_code == 401 and await self._key.renew(key):
                        answer = await self._send(held, url, content, method=method)
            except _TRANSPORT as error:
                raise transport_failure(error) from error
            if answer.status_code != 200:
                said = await _read_some(answer, by=by)
                raise status_failure(answer.status_code, answer.headers, said)
            yield answer

    async def _send(
        self, held: AsyncExitStack, url: str, content: bytes | None, *, method: str | None
    ) -> httpx.Response:
        connected = False

        async def note(event: str, _: dict[str, Any]) -> None:
            nonlocal connected
            connected = connected or event == "connection.connect_tcp.started"

        method = method or ("GET" if content is None else "POST")
        extensions = {"timeout": self._timeouts, "trace": note}
        while True:
            pool = await held.enter_async_context(self._connections.borrow())
            headers = self._headers
            if key := self._key.value:
                headers = httpx.Headers([*headers.items(), ("authorization", f"Bearer {key}")])
            request = httpx.Request(
                method, url, headers=headers, content=content, extensions=extensions
            )
            try:
                answer = await pool.handle_async_request(request)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                if connected:
                    raise
                # A kept connection had died unseen, as after the server's restart: that tells
                # nothing of the server now. The fresh pool connects, so this ends.
                self._connections.drop()
                continue
            held.push_async_callback(answer.aclose)
            return answer

    async def _lines(
        self, answer: httpx.Response, *, by: float, silence_s: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The answer's lines; several that came together are handed out without waiting."""
        loop = asyncio.get_running_loop()
        next_s = self._next_token_s if silence_s is None else silence_s
        rest = b""
        async with aclosing(answer.aiter_raw()) as pieces:  # type: ignore[type-var]
            while True:
                try:
                    async with asyncio.timeout_at(by):
                        piece = await anext(pieces, None)
                except _TRANSPORT as error:
                    raise transport_failure(error) from error
                if piece is None:
                    break
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE_BYTES:
                    raise ModelUnavailable("The model server sent a line without end.")
                for line in lines:
                    if line.strip():
                        yield line
                if lines:
                    # Only a whole line counts as a sign of life, not a byte now and then.
                    self._connections.touch()
                    by = loop.time() + next_s
        if rest.strip():
            yield rest


async def _drain(lines: AsyncGenerator[bytes, None]) -> None:
    with suppress(ModelUnavailable, TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in lines:
                pass


async def _read_some(answer: httpx.Response, *, by: float) -> bytes:
    data = b""
    try:
        async with asyncio.timeout_at(by):
            async for piece in answer.aiter_raw():
                data += piece
                if len(data) > _ERROR_BODY_BYTES:
                    break
    except _TRANSPORT:
        # The status has been told; its explanation is a courtesy.
        return data
    return data


def _read(read: Callable[[dict[str, Any]], T], record: dict[str, Any]) -> T:
    try:
        return read(record)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelUnavailable("The model server's answer makes no sense.") from error
