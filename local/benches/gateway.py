"""What a completion costs over calling the model server: ours, and LiteLLM's proxy (--litellm)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from local.benches.running import ROOT, Running, running_platform
from local.services.process import free_port

ROUNDS: Final = 200
WARM_ROUNDS: Final = 20
AT_ONCE: Final = 32
REQUESTS: Final = 640
FRAMES: Final = 8
# A name of LiteLLM's price list: one outside of it doubles what its proxy costs.
MODEL: Final = "llama3"
PEER: Final = ROOT / ".lambent" / "litellm"
_START_LIMIT_S: Final = 240.0
_BRISK: Final = {"RATE_LIMIT_MAX_REQUESTS": "1000000", "OLLAMA_MAX_INFLIGHT": "64"}


@dataclass(slots=True)
class Way:
    """One way to the model: an address, a path and a body."""

    name: str
    url: str
    path: str
    key: str = "none"
    ms: list[float] = field(default_factory=list)
    per_s: float | None = None

    def request(self) -> bytes:
        message = {"role": "user", "content": "Why is the sky blue?"}
        body = json.dumps({"model": MODEL, "messages": [message], "stream": False}).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"authorization: Bearer {self.key}\r\n\r\n"
        )
        return head.encode() + body

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.ms)

    @property
    def p95_ms(self) -> float:
        return statistics.quantiles(self.ms, n=20)[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", action="store_true", help="install and measure the peer")
    wanted = parser.parse_args().litellm
    with ExitStack() as running:
        model = running.enter_context(_scripted_model())
        platform = running.enter_context(running_platform(**_BRISK, OLLAMA_HOST=model))
        bare = running.enter_context(_application(platform, model))
        key = _new_key(platform)
        direct = Way("model server, directly", model, "/api/chat")
        front = Way("front port, function, runtime", platform.url, "/v1/chat/completions", key)
        application = Way("application under uvicorn", bare, "/v1/chat/completions", key)
        ways = [direct, front, application]
        peer = None
        if wanted:
            # It refuses to start without a key of its own.
            master = f"sk-{secrets.token_hex(32)}"
            url = running.enter_context(_litellm(model, master))
            peer = Way("LiteLLM proxy", url, "/v1/chat/completions", master)
            ways.append(peer)
        asyncio.run(measure(ways, crowded=ways if peer is None else [direct, application, peer]))
    Console(width=120).print(_table(ways, peer=peer))


async def measure(ways: Sequence[Way], *, crowded: Sequence[Way]) -> None:
    """All ways in turn, round by round, so that a busy machine is busy for each."""
    lines = [await _Line.open(way) for way in ways]
    for number in range(WARM_ROUNDS + ROUNDS):
        for line in lines:
            took_ms = await line.ask()
            if number >= WARM_ROUNDS:
                line.way.ms.append(took_ms)
    for line in lines:
        line.close()
    for way in crowded:
        # Behind the front each request at once has an environment of its own, as on Lambda: that
        # measures how many processes a machine holds, not what a gateway adds.
        if "function" not in way.name:
            way.per_s = await _crowd(way)


class _Line:
    """A kept connection that asks again and again."""

    def __init__(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.way = way
        self._reader = reader
        self._writer = writer
        self._request = way.request()

    @classmethod
    async def open(cls, way: Way) -> _Line:
        address = urlsplit(way.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        return cls(way, reader, writer)

    async def ask(self) -> float:
        """Milliseconds until the whole answer is here; RuntimeError unless it is one."""
        began = time.perf_counter()
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = head.lower()
        if b"transfer-encoding: chunked" in fields:
            body = b""
            while size := int(await self._reader.readline(), 16):
                body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        else:
            length = int(fields.partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await self._reader.readexactly(length)
        took_ms = (time.perf_counter() - began) * 1000
        if not head.startswith(b"HTTP/1.1 200") or b"word word" not in body:
            raise RuntimeError(f"{self.way.name} answered {head[:40]!r} {body[:300]!r}")
        return took_ms

    def close(self) -> None:
        self._writer.close()


async def _crowd(way: Way) -> float:
    """Requests a second with `AT_ONCE` connections."""
    lines = [await _Line.open(way) for _ in range(AT_ONCE)]

    async def work(line: _Line, times: int) -> None:
        for _ in range(times):
            await line.ask()

    await asyncio.gather(*(work(line, 2) for line in lines))
    began = time.perf_counter()
    await asyncio.gather(*(work(line, REQUESTS // AT_ONCE) for line in lines))
    took_s = time.perf_counter() - began
    for line in lines:
        line.close()
    return REQUESTS / took_s


def _table(ways: Sequence[Way], *, peer: Way | None) -> Table:
    title = f"gateway: {ROUNDS} completions one at a time, ms; {AT_ONCE} at once, requests a second"
    table = Table(title=title, title_justify="left")
    for name in ("", "p50", "p95", "added p50", "added p95", "", f"a second, {AT_ONCE} at once"):
        table.add_column(name, justify="right")
    direct = ways[0]
    limit_ms = None if peer is None else (peer.p50_ms - direct.p50_ms) / 2
    for way in ways:
        added_ms = way.p50_ms - direct.p50_ms
        added = ["", "", ""]
        if way is not direct:
            late_ms = way.p95_ms - direct.p95_ms
            verdict = "" if way is peer else _verdict(added_ms, limit_ms)
            added = [f"{added_ms:.2f}", f"{late_ms:.2f}", verdict]
        crowd = "" if way.per_s is None else f"{way.per_s:.0f}"
        table.add_row(way.name, f"{way.p50_ms:.2f}", f"{way.p95_ms:.2f}", *added, crowd)
    if peer is None:
        table.add_row("LiteLLM proxy", "absent", "", "", "", "(--litellm)", "")
    return table


def _verdict(added_ms: float, limit_ms: float | None) -> str:
    if limit_ms is None:
        return "no peer"
    return "met" if added_ms <= limit_ms else f"missed (≤ {limit_ms:.2f})"


@contextmanager
def _scripted_model() -> Iterator[str]:
    # Its package has imported it by then, and it minds being run as well.
    quiet = ["-W", "ignore::RuntimeWarning:runpy"]
    command = [*quiet, "-m", "local.services.scripted", "--port", "0", "--frames", str(FRAMES)]
    with _process([sys.executable, *command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()


@contextmanager
def _application(platform: Running, model: str) -> Iterator[str]:
    """The chat function's application alone, over the platform's stores."""
    port = free_port()
    ready = platform.ready
    environ = {
        **_BRISK,
        "OLLAMA_HOST": model,
        "POSTGRES_DSN": ready["postgres_dsn"],
        "MONGO_URI": ready["mongo_uri"],
    }
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "lambent.app:chat_app",
        "--port", str(port), "--lifespan", "off", "--log-level", "error",
    ]  # fmt: skip
    with _process(command, environ=environ):
        yield _until_up(f"http://127.0.0.1:{port}", "/health")


@contextmanager
def _litellm(model: str, key: str) -> Iterator[str]:
    """LiteLLM's proxy in an environment of its own, made by the first run that asks for it."""
    if not (PEER / "bin" / "litellm").exists():
        subprocess.run(["uv", "venv", "--quiet", "--clear", str(PEER)], check=True, cwd=ROOT)
        python = str(PEER / "bin" / "python")
        install = ["uv", "pip", "install", "--quiet", "--python", python, "litellm[proxy]"]
        subprocess.run(install, check=True, cwd=ROOT)
    port = free_port()
    route = {"model": f"ollama_chat/{MODEL}", "api_base": model}
    # JSON is YAML, too.
    config = {"model_list": [{"model_name": MODEL, "litellm_params": route}]}
    with tempfile.TemporaryDirectory(prefix="lambent-bench-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(config))
        command = [str(PEER / "bin" / "litellm"), "--config", str(file), "--port", str(port)]
        environ = {
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        }
        with _process(command, environ=environ, stdout=subprocess.DEVNULL):
            yield _until_up(f"http://127.0.0.1:{port}", "/health/liveliness")


@contextmanager
def _process(
    command: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(environ or {})}, stdout=stdout
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_up(url: str, path: str) -> str:
    until = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}{path}", timeout=5):
                return url
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _new_key(platform: Running) -> str:
    body = json.dumps({"name": "bench", "client": "bench", "scopes": ["chat"]}).encode()
    headers = {**platform.headers, "content-type": "application/json"}
    request = urllib.request.Request(f"{platform.url}/keys", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["key"])


if __name__ == "__main__":
    main()
