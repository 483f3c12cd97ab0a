"""What a chat's stream costs over calling the model server: to the first token, and a frame."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
FRAMES: Final = 1000
FIRST_ROUNDS: Final = 100
STREAM_ROUNDS: Final = 15
FIRST_TARGET_MS: Final = 5.0
FRAME_TARGET_MS: Final = 0.3
START_LIMIT_S: Final = 60.0
MESSAGE: Final = {"role": "user", "content": "Why is the sky blue?"}


class Peer:
    """One way to the model: a connection that is kept, and one request that is repeated."""

    def __init__(self, name: str, url: str, *, key: str) -> None:
        self.name = name
        self._key = key  # empty: Ollama's own API
        self._path = "/chat/stream" if key else "/api/chat"
        self._marker = b'data: {"delta"' if key else b'"content"'
        self._address = urlsplit(url)
        self.first_ms: list[float] = []
        self.frame_ms: list[float] = []
        self._socket = _connected(self._address.hostname or "", self._address.port or 80)

    def ask(self, frames: int) -> tuple[float, float]:
        """Milliseconds until the first frame, and from there until the last."""
        body: dict[str, Any] = {"messages": [MESSAGE], "options": {"num_predict": frames}}
        if not self._key:
            body |= {"model": "smollm2:135m", "stream": True}
        data = json.dumps(body).encode()
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: {self._address.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n"
            f"authorization: Bearer {self._key or 'none'}\r\n\r\n"
        )
        began = time.perf_counter()
        self._socket.sendall(head.encode() + data)
        got = b""
        first = 0.0
        while not got.endswith(b"0\r\n\r\n"):
            piece = self._socket.recv(1 << 20)
            if not piece:
                raise ConnectionError(f"{self.name} hung up: {got[-300:]!r}")
            got += piece
            if not first and self._marker in got:
                first = time.perf_counter()
        ended = time.perf_counter()
        if got.count(self._marker) < frames:
            raise RuntimeError(f"{self.name} gave too few frames: {got[:600]!r}")
        return (first - began) * 1000, (ended - first) * 1000

    def close(self) -> None:
        self._socket.close()


def _connected(host: str, port: int) -> socket.socket:
    until = time.monotonic() + START_LIMIT_S
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


@dataclass(frozen=True, slots=True)
class Row:
    """Medians, and what is added to the direct call's; milliseconds."""

    name: str
    first_ms: float
    first_p95_ms: float
    frame_ms: float


def main() -> None:
    """Print the table."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        model = running.enter_context(_scripted_model())
        ready = running.enter_context(_stack(folder / "data", model))
        bare = running.enter_context(_bare_application(ready, model))
        key = _new_key(ready)
        peers = [
            Peer("model server, directly", model, key=""),
            Peer("application under uvicorn", bare, key=key),
            Peer("front port, function, runtime", ready["url"], key=key),
        ]
        rows = measure(peers)
        for peer in peers:
            peer.close()
    Console(width=110).print(_table(rows))


def measure(peers: list[Peer]) -> list[Row]:
    """All peers in turn, round by round, so that a busy machine is busy for each."""
    for peer in peers:
        peer.ask(FRAMES)
    for _ in range(FIRST_ROUNDS):
        for peer in peers:
            peer.first_ms.append(peer.ask(1)[0])
    for _ in range(STREAM_ROUNDS):
        for peer in peers:
            peer.frame_ms.append(peer.ask(FRAMES)[1] / FRAMES)
    return [
        Row(
            peer.name,
            statistics.median(peer.first_ms),
            statistics.quantiles(peer.first_ms, n=20)[-1],
            statistics.median(peer.frame_ms),
        )
        for peer in peers
    ]


def _table(rows: list[Row]) -> Table:
    title = f"stream: {FIRST_ROUNDS} first tokens, {STREAM_ROUNDS} streams of {FRAMES} frames, ms"
    table = Table(title=title, title_justify="left")
    for name in ("", "first p50", "first p95", "added p50", "", "a frame", "added", ""):
        table.add_column(name, justify="right")
    direct = rows[0]
    for row in rows:
        first, frame = row.first_ms - direct.first_ms, row.frame_ms - direct.frame_ms
        added = ["", "", f"{row.frame_ms:.4f}", "", ""]
        if row is not direct:
            added = [
                f"{first:.2f}", _verdict(first, FIRST_TARGET_MS),
                f"{row.frame_ms:.4f}", f"{frame:.4f}", _verdict(frame, FRAME_TARGET_MS),
            ]  # fmt: skip
        table.add_row(row.name, f"{row.first_ms:.2f}", f"{row.first_p95_ms:.2f}", *added)
    return table


def _verdict(value_ms: float, target_ms: float) -> str:
    return "met" if value_ms <= target_ms else f"missed (≤ {target_ms:g})"


@contextmanager
def _scripted_model() -> Iterator[str]:
    command = ["-m", "local.services.scripted", "--port", "0", "--frames", str(FRAMES)]
    with _process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()


@contextmanager
def _stack(data: Path, model: str) -> Iterator[dict[str, Any]]:
    environ = {"OLLAMA_HOST": model, "RATE_LIMIT_MAX_REQUESTS": "1000000"}
    command = ["-m", "local", "up", "--port", "0", "--data", str(data)]
    with _process(command, environ=environ, stdout=subprocess.DEVNULL) as process:
        yield json.loads(_wait_for(process, data / "ready.json"))


@contextmanager
def _bare_application(ready: dict[str, Any], model: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        "OLLAMA_HOST": model,
        "RATE_LIMIT_MAX_REQUESTS": "1000000",
        "POSTGRES_DSN": ready["postgres_dsn"],
        "MONGO_URI": ready["mongo_uri"],
    }
    command = [
        "-m", "uvicorn", "--factory", "lambent.app:chat_app", "--port", str(port),
        "--lifespan", "off", "--log-level", "error",
    ]  # fmt: skip
    with _process(command, environ=environ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _process(
    arguments: list[str],
    *,
    environ: dict[str, str] | None = None,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::RuntimeWarning:runpy", *arguments],
        cwd=ROOT, env={**os.environ, **(environ or {})}, stdout=stdout,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], path: Path) -> str:
    until = time.monotonic() + START_LIMIT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError("the local stack did not come up; try ./local/up")
        time.sleep(0.05)
    return path.read_text()


def _new_key(ready: dict[str, Any]) -> str:
    body = json.dumps({"name": "bench", "client": "bench", "scopes": ["chat"]}).encode()
    headers = {
        "authorization": f"Bearer {ready['admin_key']}",
        "content-type": "application/json",
    }
    request = urllib.request.Request(f"{ready['url']}/keys", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["key"])


if __name__ == "__main__":
    main()
