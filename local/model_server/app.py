"""Routes Ollama's API: who asks for what, and which refusal in which words."""

import asyncio
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

from local.model_server import prompts, wire
from local.model_server.generation import Work, answer
from local.model_server.gguf import Gguf
from local.model_server.http1 import TEXT, Exchange, encode_json
from local.model_server.requests import Body, Generation, Refused, read_chat, read_generate
from local.model_server.residence import QueueFull, Residence

REGISTRY = "registry.ollama.ai/"
LIBRARY = "library/"
EMBED_TOKENS = 2048


def canonical(name: str) -> str:
    """A model's name with its tag, without the registry that is meant anyway."""
    short = name.strip().lower().removeprefix(REGISTRY).removeprefix(LIBRARY)
    return short if ":" in short else f"{short}:latest"


class ModelApi:
    """Ollama's API over one model; called once for each exchange."""

    def __init__(self, name: str, gguf: Gguf, residence: Residence) -> None:
        self._name = canonical(name)
        self._gguf = gguf
        self._residence = residence
        self._work = Work()

    async def __call__(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except Refused as refused:
            exchange.respond_json(refused.status, {"error": str(refused)})
        except QueueFull:
            exchange.respond_json(503, {"error": wire.BUSY})

    async def _route(self, exchange: Exchange) -> None:
        match exchange.method, exchange.path:
            case (("GET" | "HEAD"), "/"):
                exchange.respond(200, wire.RUNNING, content_type=f"{TEXT}; charset=utf-8")
            case (("GET" | "HEAD"), "/api/version"):
                exchange.respond_json(200, {"version": wire.VERSION})
            case (("GET" | "HEAD"), "/api/tags"):
                modified_at = rfc3339(self._gguf.modified_at)
                entry = await self._entry()
                exchange.respond_json(200, {"models": [entry | {"modified_at": modified_at}]})
            case "GET", "/api/ps":
                exchange.respond_json(200, {"models": await self._running()})
            case "GET", "/debug/state":
                exchange.respond_json(200, self._state())
            case "POST", path:
                await self._post(exchange, path)
            case _:
                exchange.respond(404, wire.NO_PAGE, content_type=TEXT)

    async def _post(self, exchange: Exchange, path: str) -> None:
        match path:
            case "/api/chat":
                body = Body(exchange.body, "ChatRequest")
                await self._generate(exchange, read_chat(body, self._model(body, path)))
            case "/api/generate":
                body = Body(exchange.body, "GenerateRequest")
                await self._generate(exchange, read_generate(body, self._model(body, path)))
            case "/api/embed":
                await self._embed(exchange, Body(exchange.body, "EmbedRequest"))
            case "/api/embeddings":
                await self._embed_one(exchange, Body(exchange.body, "EmbeddingRequest"))
            case "/api/show":
                self._show(exchange, Body(exchange.body, "ShowRequest"))
            case "/api/pull":
                await self._pull(exchange, Body(exchange.body, "PullRequest"))
            case _:
                exchange.respond(404, wire.NO_PAGE, content_type=TEXT)

    def _model(self, body: Body, path: str) -> str:
        """The model's name as the client wrote it; Refused if it is not ours."""
        name: str = body.get("model", str, "") or body.get("name", str, "")
        if not name or " " in name.strip():
            raise Refused(400, "model is required")
        if canonical(name) != self._name:
            raise Refused(404, wire.not_found(path, name)["error"])
        return name

    async def _generate(self, exchange: Exchange, wanted: Generation) -> None:
        if not wanted.is_empty:
            await answer(exchange, wanted, model=self._residence, work=self._work)
            return
        reason = "unload" if wanted.keep_alive_s == 0 else "load"
        if reason == "load":
            await asyncio.shield(self._residence.preload())
        self._residence.keep_for(wanted.keep_alive_s)
        exchange.respond_json(200, wire.last(wanted.route, wanted.model, reason))

    async def _vectors(self, texts: list[str], body: Body) -> tuple[list[list[float]], int, int]:
        """Vectors, tokens read and nanoseconds of loading."""
        loop = asyncio.get_running_loop()
        async with self._residence.seat(body.keep_alive_s()) as seat:

            def work() -> tuple[list[list[float]], int]:
                inputs = [seat.engine.tokenize(text) for text in texts]
                if any(len(tokens) > EMBED_TOKENS for tokens in inputs):
                    if not body.get("truncate", bool, True):
                        raise Refused(400, "input length exceeds maximum context length")
                    inputs = [tokens[:EMBED_TOKENS] for tokens in inputs]
                return seat.engine.embed(inputs)

            vectors, tokens = await loop.run_in_executor(self._residence.pool, work)
        return vectors, tokens, seat.load_ns

    async def _embed(self, exchange: Exchange, body: Body) -> None:
        began_at_s = time.monotonic()
        model = self._model(body, "/api/embed")
        given = body.value.get("input")
        texts = [given] if isinstance(given, str) else given or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        texts = [text for text in texts if text]
        if not texts:
            exchange.respond_json(200, {"model": model, "embeddings": []})
            return
        vectors, tokens, load_ns = await self._vectors(texts, body)
        timings = wire.Timings(
            total_duration=int((time.monotonic() - began_at_s) * 1e9),
            load_duration=load_ns,
            prompt_eval_count=tokens,
        )
        answer = {"model": model, "embeddings": vectors, **timings.fields()}
        exchange.respond_json(200, answer)

    async def _embed_one(self, exchange: Exchange, body: Body) -> None:
        self._model(body, "/api/embeddings")
        prompt = body.get("prompt", str, "")
        vectors, _, _ = await self._vectors([prompt], body) if prompt else ([[]], 0, 0)
        exchange.respond_json(200, {"embedding": vectors[0]})

    def _show(self, exchange: Exchange, body: Body) -> None:
        model = self._model(body, "/api/show")
        stops = [f'stop                           "{stop}"' for stop in prompts.STOPS]
        lines = [f"PARAMETER stop {stop}" for stop in prompts.STOPS]
        file = [f"FROM {model}", f'TEMPLATE """{prompts.TEMPLATE}"""', *lines, ""]
        verbose = body.get("verbose", bool, False)
        exchange.respond_json(
            200,
            {
                "modelfile": "\n".join(file),
                "parameters": "\n".join(stops),
                "template": prompts.TEMPLATE,
                "details": self._gguf.details(),
                "model_info": self._gguf.model_info(verbose=verbose),
                "tensors": self._gguf.tensors,
                "capabilities": ["completion", "tools"],
                "modified_at": rfc3339(self._gguf.modified_at),
            },
        )

    async def _pull(self, exchange: Exchange, body: Body) -> None:
        name: str = body.get("model", str, "") or body.get("name", str, "")
        if not name:
            raise Refused(400, "model is required")
        known = canonical(name) == self._name
        if not body.get("stream", bool, True):
            if not known:
                raise Refused(500, "pull model manifest: file does not exist")
            exchange.respond_json(200, {"status": "success"})
            return
        exchange.start_stream()
        for line in await self._pulling() if known else UNKNOWN_PULL:
            await exchange.write(encode_json(line) + b"\n")
        exchange.end_stream()

    async def _pulling(self) -> list[wire.Line]:
        digest = await self._digest()
        size = self._gguf.size_bytes
        layer = {"digest": f"sha256:{digest}", "total": size, "completed": size}
        words = ["verifying sha256 digest", "writing manifest", "success"]
        return [
            {"status": "pulling manifest"},
            {"status": f"pulling {digest[:12]}", **layer},
            *({"status": word} for word in words),
        ]

    async def _digest(self) -> str:
        return await asyncio.to_thread(lambda: self._gguf.digest)

    async def _entry(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "model": self._name,
            "size": self._gguf.size_bytes,
            "digest": await self._digest(),
            "details": self._gguf.details(),
        }

    async def _running(self) -> list[dict[str, Any]]:
        if not self._residence.loaded:
            return []
        expires_at = rfc3339(self._residence.expires_at)
        return [await self._entry() | {"expires_at": expires_at, "size_vram": 0}]

    def _state(self) -> dict[str, Any]:
        """Not Ollama's: what is going on, for tests that a hang-up stops the model."""
        residence = self._residence
        seen = {"in_flight": residence.in_flight, "waiting": residence.waiting}
        return {"loaded": residence.loaded, **seen, **asdict(self._work)}


UNKNOWN_PULL: list[wire.Line] = [
    {"status": "pulling manifest"},
    {"error": "pull model manifest: file does not exist"},
]


def rfc3339(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
