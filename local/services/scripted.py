"""Plays an Ollama whose every answer, delay and fault a test has written beforehand."""

import argparse
import asyncio
import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from local.model_server import wire
from local.model_server.http1 import (
    TEXT,
    Exchange,
    HttpServer,
    encode_json,
    parse_json,
)
from local.services.script import Fault, Reply, chunk_of

T = TypeVar("T")
MODEL = "smollm2:135m"
FLUSH_BYTES = 64 * 1024
EMBEDDING_SIZE = 8
WINDOW_WORDS = 2048


@dataclass(slots=True)
class Recorded:
    """One request that came, and what became of its answer."""

    method: str
    path: str
    headers: dict[str, str]
    json: Any
    exchange: Exchange = field(repr=False)
    received_at_s: float = field(default_factory=time.monotonic)
    frames_sent: int = 0
    ended: bool = False

    @property
    def hung_up(self) -> bool:
        """Whether the client left before its answer had ended."""
        return not self.ended and self.exchange.gone_at_s is not None

    @property
    def hung_up_at_s(self) -> float | None:
        """When that was noticed, by `time.monotonic`, which all processes of a machine share."""
        return self.exchange.gone_at_s if self.hung_up else None


Predicate = Callable[[Recorded], bool]
Script = Reply | Callable[[Recorded], Reply]


class ScriptedModel:
    """A server in a thread of this process; `host` is "http://127.0.0.1:PORT".

    A generation is answered by the first rule whose predicate holds, else by the next scripted
    reply, else by `default`. Every model name is known, but those in `unknown_models`.
    """

    model = MODEL

    def __init__(self, *, port: int = 0) -> None:
        self.requests: list[Recorded] = []
        self.default: Script = Reply.text("Hello from the script.")
        self.unknown_models = {"nope"}
        self.held_models = [MODEL]
        self.loaded_models = [MODEL]
        self.embedding_models: set[str] = set()  # they make vectors and nothing else
        self.pulls: deque[list[wire.Line]] = deque()  # the lines of each call, in this order
        self._rules: list[tuple[Predicate, Script]] = []
        self._queue: deque[Script] = deque()
        self._server = HttpServer(self._handle)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted", daemon=True)
        self._thread.start()
        try:
            self._run(self._server.listen(port))
        except OSError:
            self._end_loop()
            raise
        self.port = self._server.port
        self.host = f"http://127.0.0.1:{self.port}"

    @classmethod
    def start(cls, *, port: int = 0) -> Self:
        return cls(port=port)

    def script(self, *replies: Script) -> None:
        """Answer the next generations with these, in this order."""
        self._queue.extend(replies)

    def forget(self) -> None:
        """Drop the replies that nothing asked for."""
        self._queue.clear()

    def when(self, predicate: Predicate, reply: Script) -> None:
        """Answer each generation for which `predicate` holds with `reply`; first rule wins."""
        self._rules.append((predicate, reply))

    @property
    def generations(self) -> list[Recorded]:
        """The recorded requests to /api/chat and /api/generate."""
        return [r for r in self.requests if r.path in set(wire.Route)]

    async def until(self, condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
        """Wait, on the caller's own loop, for something that the server will have seen."""
        deadline_at = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_at:
                raise TimeoutError(f"the scripted model saw no such thing in {timeout_s:g} s")
            await asyncio.sleep(0.005)

    def stop_listening(self) -> None:
        """Refuse connections and reset the open ones, as a stopped Ollama does."""
        self._run(self._server.close())

    def listen_again(self) -> None:
        """Listen once more on the same port."""
        self._run(self._server.listen(self.port))

    def stop(self) -> None:
        if not self._loop.is_closed():
            self.stop_listening()
            self._end_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    def _end_loop(self) -> None:
        self._run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _handle(self, exchange: Exchange) -> None:
        try:
            value = parse_json(exchange.body) if exchange.body else {}
        except ValueError as error:
            exchange.respond_json(400, {"error": str(error)})
            return
        headers = exchange.headers
        record = Recorded(exchange.method, exchange.path, headers, value, exchange)
        self.requests.append(record)
        model = value.get("model") or value.get("name") if isinstance(value, dict) else None
        match exchange.method, exchange.path:
            case (("GET" | "HEAD"), "/"):
                exchange.respond(200, wire.RUNNING, content_type=f"{TEXT}; charset=utf-8")
            case (("GET" | "HEAD"), ("/api/tags" | "/api/ps" | "/api/version") as path):
                exchange.respond_json(200, self._listing(path))
            case ("POST", "/api/pull") | ("DELETE", "/api/delete"):
                await self._change(exchange, str(model))
            case "POST", ("/api/chat" | "/api/generate" | "/api/show" | "/api/embed") as path:
                if not model:
                    exchange.respond_json(400, {"error": "model is required"})
                elif model in self.unknown_models:
                    exchange.respond_json(404, wire.not_found(path, model))
                elif path == "/api/show":
                    exchange.respond_json(200, _shown(embeds=model in self.embedding_models))
                elif path == "/api/embed":
                    exchange.respond_json(*self._embed(model, value))
                else:
                    await self._generate(record, wire.Route(path), model)
            case _:
                exchange.respond(404, wire.NO_PAGE, content_type=TEXT)
        record.ended = exchange.finished

    async def _change(self, exchange: Exchange, model: str) -> None:
        if exchange.path == "/api/pull":
            await _write_lines(exchange, self.pulls.popleft() if self.pulls else _PULLED)
        elif model in self.held_models:
            self.held_models.remove(model)
            exchange.respond(200, b"")
        else:
            exchange.respond_json(404, {"error": f"model '{model}' not found"})

    def _embed(self, model: str, asked: Mapping[str, Any]) -> tuple[int, wire.Line]:
        if not asked.get("input"):  # as models are loaded
            self._keep(model, asked.get("keep_alive"))
        return _embedded(model, asked)

    def _keep(self, model: str, keep_alive: object) -> None:
        kept = [name for name in self.loaded_models if name != model]
        self.loaded_models = kept if keep_alive == 0 else [*kept, model]

    def _listing(self, path: str) -> wire.Line:
        match path:
            case "/api/version":
                return {"version": wire.VERSION}
            case "/api/ps":
                more = {"expires_at": wire.timestamp(), "size_vram": 0}
                return {"models": [{**_entry(name), **more} for name in self.loaded_models]}
            case _:
                more = {"modified_at": wire.timestamp()}
                return {"models": [{**_entry(name), **more} for name in self.held_models]}

    def _choose(self, record: Recorded) -> Reply:
        for predicate, ruled in self._rules:
            if predicate(record):
                chosen: Script = ruled
                break
        else:
            chosen = self._queue.popleft() if self._queue else self.default
        return chosen if isinstance(chosen, Reply) else chosen(record)

    async def _generate(self, record: Recorded, route: wire.Route, model: str) -> None:
        exchange, began_at_s = record.exchange, time.monotonic()
        if not record.json.get("messages" if route is wire.Route.CHAT else "prompt"):
            keep_alive = record.json.get("keep_alive")
            if model in self.embedding_models and keep_alive != 0:
                exchange.respond_json(400, {"error": f'"{model}" does not support generate'})
                return
            self._keep(model, keep_alive)
            exchange.respond_json(200, wire.last(route, model, "load"))
            return
        limit = (record.json.get("options") or {}).get("num_predict", -1)
        reply = self._choose(record).limited_to(limit)
        await asyncio.sleep(reply.first_delay_s)
        if reply.status != 200:
            exchange.respond_json(reply.status, {"error": reply.error})
        elif record.json.get("stream", True):
            await _stream(record, route, model, reply, began_at_s=began_at_s)
        else:
            await _answer_whole(record, route, model, reply, began_at_s=began_at_s)


async def _stream(
    record: Recorded, route: wire.Route, model: str, reply: Reply, *, began_at_s: float
) -> None:
    exchange = record.exchange
    exchange.start_stream()
    ready: list[bytes] = []
    ready_bytes = 0
    for chunk in reply.chunks(route, model):
        record.frames_sent += 1
        if reply.delay_s:
            await exchange.write_framed(chunk)
            await asyncio.sleep(reply.delay_s)
            continue
        ready.append(chunk)
        ready_bytes += len(chunk)
        if ready_bytes >= FLUSH_BYTES:
            await exchange.write_framed(b"".join(ready))
            ready, ready_bytes = [], 0
    if reply.fault is None:
        final = wire.last(route, model, reply.done_reason, timings=reply.timings(began_at_s))
        ready.append(chunk_of(final))
    if ready:
        await exchange.write_framed(b"".join(ready))
    if reply.fault is None:
        exchange.end_stream()
    else:
        await _fail(exchange, reply.fault, reply.error)


async def _answer_whole(
    record: Recorded, route: wire.Route, model: str, reply: Reply, *, began_at_s: float
) -> None:
    exchange = record.exchange
    await asyncio.sleep(reply.delay_s * len(reply.frames))
    match reply.fault:
        case None:
            whole = wire.last(
                route,
                model,
                reply.done_reason,
                timings=reply.timings(began_at_s),
                text="".join(reply.frames),
                thinking="".join(reply.thinking),
                tool_calls=list(reply.tool_calls),
            )
            exchange.respond_json(200, whole)
        case Fault.ERROR_LINE:
            exchange.respond_json(500, {"error": reply.error})
        case Fault.MALFORMED:
            exchange.respond(200, b'{"model": "smol')
        case Fault.BREAK | Fault.HANG | Fault.END_EARLY:
            await _fail(exchange, reply.fault, reply.error)


async def _fail(exchange: Exchange, fault: Fault, error: str) -> None:
    match fault:
        case Fault.ERROR_LINE:
            await exchange.write(encode_json({"error": error}) + b"\n")
            exchange.end_stream()
        case Fault.MALFORMED:
            await exchange.write(b'{"model": "smol\n')
            exchange.end_stream()
        case Fault.END_EARLY if exchange.started:
            exchange.end_stream()
        case Fault.HANG:
            await asyncio.Event().wait()
        case Fault.BREAK | Fault.END_EARLY:
            await asyncio.sleep(0.02)  # what was written goes out before the reset overtakes it
            exchange.abort()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_1",
}


_PULLED = [{"status": "pulling manifest"}, {"status": "success"}]


async def _write_lines(exchange: Exchange, lines: list[wire.Line]) -> None:
    exchange.start_stream()
    for line in lines:
        await exchange.write_framed(chunk_of(line))
    exchange.end_stream()


def _entry(name: str) -> wire.Line:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {"name": name, "model": name, "size": 1, "digest": digest, "details": DETAILS}


def _shown(*, embeds: bool) -> wire.Line:
    return {
        "modelfile": "FROM scripted\n",
        "template": "{{ .Prompt }}",
        "details": DETAILS,
        "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
        "capabilities": ["embedding"] if embeds else ["completion", "tools"],
        "modified_at": wire.timestamp(),
    }


def _embedded(model: str, asked: Mapping[str, Any]) -> tuple[int, wire.Line]:
    value = asked.get("input", [])
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []
    if asked.get("truncate") is False and any(len(t.split()) > WINDOW_WORDS for t in texts):
        return 400, {"error": "input length exceeds maximum context length"}
    vectors = [[b / 255 for b in hashlib.sha256(t.encode()).digest()[:8]] for t in texts]
    return 200, {
        "model": model,
        "embeddings": vectors,
        "total_duration": 1,
        "load_duration": 1,
        "prompt_eval_count": len(texts),
    }


def main() -> None:
    """Serve `--frames` frames to whoever asks, as a process of its own, until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=11434)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--first-delay-s", type=float, default=0.0)
    options = parser.parse_args()
    with ScriptedModel.start(port=options.port) as server:
        server.default = Reply.many(
            options.frames, delay_s=options.delay_s, first_delay_s=options.first_delay_s
        )
        print(server.host, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
