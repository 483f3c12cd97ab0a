"""How fast lambda_stream streams, beside uvicorn without Lambda and Lambda Web Adapter."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from local.benches.streaming_front import PIECE_BYTES, StreamingFront
from local.emulator.chunked import ChunkedDecoder

ROOT: Final = Path(__file__).resolve().parents[2]
FRAMES: Final = 1000
FEW_FRAMES: Final = 10
MARKER: Final = b"data: {"
FIRST_ROUNDS: Final = 200
STREAM_ROUNDS: Final = 80
BLOCK_ROUNDS: Final = 20
WARM_UP_ROUNDS: Final = 3
SHIPPED_RATIO: Final = 3.0
NO_DELAY_RATIO: Final = 1.5
START_LIMIT_S: Final = 10.0

_APPLICATION: Final = """
FRAME = b'data: {"delta": "a word or so "}\\n\\n'

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    count = int(scope["query_string"][2:] or b"1")
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(count):
        await send({"type": "http.response.body", "body": FRAME, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"""
# The adapter's client turns TCP_NODELAY off; preloaded, this turns it on whatever is asked.
_SHIM: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
static const int on = 1;
int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
    int (*real)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    if (level == IPPROTO_TCP && name == TCP_NODELAY) { value = &on; size = sizeof on; }
    return real(fd, level, name, value, size);
}
int connect(int fd, const struct sockaddr *to, socklen_t size) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (to->sa_family == AF_INET || to->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return real(fd, to, size);
}
"""


Ask = Callable[[str], tuple[float, float, bytes]]


@dataclass(slots=True)
class Peer:
    """One way to the application, and what was measured of it."""

    name: str
    ask: Ask | None = None
    absent: str = ""
    first_ms: list[float] = field(default_factory=list)
    frames_per_s: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.first_ms)

    @property
    def p95_ms(self) -> float:
        return statistics.quantiles(self.first_ms, n=20)[-1]

    @property
    def speed(self) -> float:
        return statistics.median(self.frames_per_s)


def main() -> None:
    """Print the table; peers that are not installed are shown as absent."""
    with tempfile.TemporaryDirectory(prefix="lambent-bench-") as folder, ExitStack() as stack:
        (Path(folder) / "streamed.py").write_text(_APPLICATION)
        port = stack.enter_context(_uvicorn(folder))
        plain = Peer("uvicorn, no Lambda", ask=stack.enter_context(_client(port)))
        ours = Peer("lambda_stream", ask=stack.enter_context(_lambda_stream(folder)))
        shipped = Peer("Lambda Web Adapter, as shipped")
        forced = Peer("Lambda Web Adapter, TCP_NODELAY")
        adapter, shim = _find_adapter(), _build_shim(folder)
        if adapter is None:
            install = "cargo install lambda_web_adapter --version 0.9.1 --root .lambent/cargo"
            shipped.absent = forced.absent = f"absent: {install}"
        else:
            shipped.ask = stack.enter_context(_adapter(adapter, port))
            if shim is None:
                forced.absent = "absent: no C compiler"
            else:
                forced.ask = stack.enter_context(_adapter(adapter, port, LD_PRELOAD=str(shim)))
        peers = [ours, plain, shipped, forced]
        for rounds, frames in ((FIRST_ROUNDS, FEW_FRAMES), (STREAM_ROUNDS, FRAMES)):
            # They take turns by blocks: a busy machine is busy for all, and none starts cold.
            block = BLOCK_ROUNDS if frames == FEW_FRAMES else BLOCK_ROUNDS // 4
            for _ in range(rounds // block):
                for peer in peers:
                    for number in range(WARM_UP_ROUNDS + block):
                        _measure(peer, frames, warm=number >= WARM_UP_ROUNDS)
    _report(ours, plain, shipped, forced)


def _measure(peer: Peer, frames: int, *, warm: bool) -> None:
    if peer.ask is None:
        return
    first_s, whole_s, got = peer.ask(f"/?n={frames}")
    plain = got.startswith(b"HTTP/")
    counted = ChunkedDecoder().feed(got.partition(b"\r\n\r\n")[2] if plain else got).count(MARKER)
    if counted != frames:
        raise RuntimeError(f"{peer.name}: {counted} of {frames} frames: {got[:300]!r}")
    if not warm:
        return
    if frames == FEW_FRAMES:
        peer.first_ms.append(first_s * 1000)
    else:
        peer.frames_per_s.append(frames / whole_s)


@contextmanager
def _client(port: int) -> Iterator[Ask]:
    """A plain HTTP client on one connection that is kept."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(target: str) -> tuple[float, float, bytes]:
        began_s = time.perf_counter()
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        got, first_s = b"", 0.0
        while not got.endswith(b"\r\n0\r\n\r\n"):
            piece = sock.recv(PIECE_BYTES)
            if not piece:
                raise RuntimeError(f"the stream broke off: {got[-200:]!r}")
            got += piece
            if not first_s and MARKER in got:
                first_s = time.perf_counter() - began_s
        return first_s, time.perf_counter() - began_s, got

    with closing(sock):
        yield ask


@contextmanager
def _process(command: list[str], folder: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def _uvicorn(folder: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "streamed:app", "--port", str(port)]
    quiet = ["--log-level", "error", "--no-access-log", "--lifespan", "off"]
    with _process([*command, *quiet], folder):
        _await_port(port)
        yield port


@contextmanager
def _lambda_stream(folder: str) -> Iterator[Ask]:
    wrapper = ROOT / "layers/runtime/lambda-stream"
    with (
        closing(StreamingFront()) as front,
        _process(
            [str(wrapper), sys.executable],
            folder,
            AWS_LAMBDA_RUNTIME_API=front.address,
            LAMBDA_TASK_ROOT=folder,
            _HANDLER="streamed.app",
        ),
    ):
        yield lambda target: front.ask(target, MARKER)


@contextmanager
def _adapter(binary: str, port: int, **environ: str) -> Iterator[Ask]:
    with (
        closing(StreamingFront()) as front,
        _process(
            [binary],
            str(ROOT),
            AWS_LAMBDA_RUNTIME_API=front.address,
            AWS_LAMBDA_FUNCTION_NAME="f",
            AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512",
            AWS_LAMBDA_FUNCTION_VERSION="1",
            AWS_LAMBDA_LOG_GROUP_NAME="g",
            AWS_LAMBDA_LOG_STREAM_NAME="s",
            AWS_LWA_INVOKE_MODE="response_stream",
            AWS_LWA_PORT=str(port),
            AWS_LWA_READINESS_CHECK_PATH="/?n=1",
            **environ,
        ),
    ):
        yield lambda target: front.ask(target, MARKER)


def _find_adapter() -> str | None:
    own = ROOT / ".lambent/cargo/bin/lambda-adapter"
    return str(own) if own.exists() else shutil.which("lambda-adapter")


def _build_shim(folder: str) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    source, shim = Path(folder) / "nodelay.c", Path(folder) / "nodelay.so"
    source.write_text(_SHIM)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return shim


def _await_port(port: int) -> None:
    until_s = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return


def _report(ours: Peer, plain: Peer, shipped: Peer, forced: Peer) -> None:
    table = Table(title=f"A stream of {FRAMES} frames; first byte of a stream of 10")
    for heading in ("", "first p50 ms", "first p95 ms", "frames/s", "lambda_stream is"):
        table.add_column(heading, justify="left" if not heading else "right")
    for peer in (ours, plain, shipped, forced):
        if peer.absent:
            table.add_row(peer.name, "", "", "", peer.absent)
            continue
        row = (f"{peer.p50_ms:.2f}", f"{peer.p95_ms:.2f}", f"{peer.speed:,.0f}")
        table.add_row(peer.name, *row, "" if peer is ours else f"{ours.speed / peer.speed:.2f} x")
    console = Console()
    console.print(table)
    limit_ms = 2 * plain.p95_ms + 1
    verdicts = [
        (f"first byte p95 at most {limit_ms:.2f} ms (2 x uvicorn + 1)", ours.p95_ms <= limit_ms)
    ]
    for peer, ratio in ((shipped, SHIPPED_RATIO), (forced, NO_DELAY_RATIO)):
        if not peer.absent:
            verdicts.append((f"{ratio} x {peer.name}", ours.speed >= ratio * peer.speed))
    for text, met in verdicts:
        console.print(f"{'met   ' if met else 'MISSED'} {text}")
