"""Runs the whole platform for a benchmark, as `./local/up` does, in a folder that goes again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_READY_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """What ready.json said; `pids` reads it again."""

    url: str
    admin_key: str
    data: Path
    ready: Mapping[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_key}"}

    def pids(self, function: str) -> list[int]:
        ready = json.loads((self.data / "ready.json").read_text())
        return [int(pid) for pid in ready["pids"]["functions"][function]]


@contextmanager
def running_platform(*flags: str, **environ: str) -> Iterator[Running]:
    """The platform from ready to stopped; raises RuntimeError with its output where it fails."""
    with tempfile.TemporaryDirectory(prefix="lambent-bench-") as folder:
        data = Path(folder) / "data"
        with (Path(folder) / "output").open("w+") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "local", "up", "--port", "0", "--data", str(data), *flags],
                cwd=ROOT,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield _wait(process, data, output.name)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=20)


def _wait(process: subprocess.Popen[bytes], data: Path, output: str) -> Running:
    until_s = time.monotonic() + _READY_LIMIT_S
    file = data / "ready.json"
    while process.poll() is None and time.monotonic() < until_s:
        if file.exists():
            ready = json.loads(file.read_text())
            return Running(ready["url"], ready["admin_key"], data, ready)
        time.sleep(0.05)
    raise RuntimeError(f"the platform did not start:\n{Path(output).read_text()[-2000:]}")
