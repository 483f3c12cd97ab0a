"""What keeping a stream costs the live one at 1,000 frames a second, and when a resume begins."""

from __future__ import annotations

import json
import socket
import statistics
import time
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from local.benches.running import running_platform
from local.services import ScriptedModel
from local.services.script import Reply

FRAMES: Final = 2000
FRAMES_A_SECOND: Final = 1000
ROUNDS: Final = 7
RESUMES: Final = 200
LOSS_TARGET_SHARE: Final = 0.05
FIRST_TARGET_MS: Final = 15.0
_BODY: Final = json.dumps(
    {
        "model": "smollm2:135m",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "stream": True,
    }
).encode()


class Line:
    """One kept connection to the platform."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._host = address.netloc
        self._key = key
        self._socket = socket.create_connection((address.hostname, address.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[float, float]:
        """Seconds until the first frame, and until the last; the answer is left in `got`."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}"]
        lines += [f"authorization: Bearer {self._key}", f"content-length: {len(body)}"]
        lines += ["content-type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        began_s = time.perf_counter()
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        got, first_s = bytearray(), 0.0
        while not got.endswith(b"0\r\n\r\n"):
            piece = self._socket.recv(1 << 20)
            if not piece:
                raise ConnectionError(f"hung up: {bytes(got[-300:])!r}")
            got += piece
            if not first_s and b"data: " in got:
                first_s = time.perf_counter() - began_s
        self.got = bytes(got)
        if not self.got.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self.got[:500].decode(errors="replace"))
        return first_s, time.perf_counter() - began_s

    def close(self) -> None:
        self._socket.close()


def main() -> None:
    """Print the table."""
    with ScriptedModel.start() as model:
        model.default = Reply.many(FRAMES, delay_s=1 / FRAMES_A_SECOND)
        limits = {"OLLAMA_HOST": model.host, "RATE_LIMIT_MAX_REQUESTS": "1000000"}
        with running_platform(**limits) as platform:
            line = Line(platform.url, platform.admin_key)
            plain, kept = measure_keeping(line)
            first_ms = measure_resuming(line)
            line.close()
    Console(width=110).print(_table(plain, kept, first_ms))


def measure_keeping(line: Line) -> tuple[float, float]:
    """Frames a second without and with keeping, in turn, so that both meet the same machine."""
    took_s: dict[str, list[float]] = {"plain": [], "kept": []}
    for _ in range(ROUNDS):
        for kind, headers in (("plain", {}), ("kept", {"x_stream_lease": "600"})):
            first_s, last_s = line.ask("POST", "/v1/chat/completions", _BODY, **headers)
            took_s[kind].append(last_s - first_s)
    rates = [FRAMES / statistics.median(took_s[kind]) for kind in ("plain", "kept")]
    return rates[0], rates[1]


def measure_resuming(line: Line) -> list[float]:
    """Milliseconds to the first frame of a stream that has ended, from near its end on."""
    line.ask("POST", "/v1/chat/completions", _BODY, x_stream_lease="600")
    id = line.got.partition(b"x-stream-id: ")[2].partition(b"\r\n")[0].decode()
    after = str(FRAMES - 20)
    asked = [line.ask("GET", f"/chat/streams/{id}", last_event_id=after)[0] for _ in range(RESUMES)]
    return [one * 1000 for one in asked]


def _table(plain: float, kept: float, first_ms: list[float]) -> Table:
    title = f"resume: {ROUNDS} streams of {FRAMES} frames each way, {RESUMES} resumes"
    table = Table(title=title, title_justify="left")
    for name in ("", "measured", "target", ""):
        table.add_column(name, justify="right")
    loss = max(0.0, 1 - kept / plain)
    median, p95 = statistics.median(first_ms), statistics.quantiles(first_ms, n=20)[-1]
    table.add_row("not kept, frames a second", f"{plain:,.0f}", "", "")
    table.add_row("kept, frames a second", f"{kept:,.0f}", "", "")
    table.add_row(
        "throughput lost", f"{loss:.1%}", f"≤ {LOSS_TARGET_SHARE:.0%}",
        _verdict(loss <= LOSS_TARGET_SHARE),
    )  # fmt: skip
    table.add_row(
        "resume's first frame p50, ms", f"{median:.1f}", f"≤ {FIRST_TARGET_MS:g}",
        _verdict(median <= FIRST_TARGET_MS),
    )  # fmt: skip
    table.add_row("p95, ms", f"{p95:.1f}", "", "")
    return table


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
