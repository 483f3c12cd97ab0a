"""`McpProcess`: the MCP server of `mcp_shelf.py` in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

_SHELF = Path(__file__).with_name("mcp_shelf.py")


class McpProcess:
    """Started, killed and started again on the same port."""

    def __init__(self, folder: Path, *, era: str = "auto") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._era = era
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> Self:
        log = (self.folder / "log").open("ab")
        command = [sys.executable, str(_SHELF), str(self.port), str(self.folder), self._era]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, self.said("log")
                time.sleep(0.05)
            else:
                return self
        raise AssertionError(self.said("log"))

    def fresh(self) -> Self:
        """Running, as if nobody had asked it anything."""
        for name in ("notes", "requests", "token", "moved"):
            (self.folder / name).unlink(missing_ok=True)
        return self if self._process is not None else self.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def said(self, name: str) -> str:
        """A file of its folder; empty where it is not there."""
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def requests(self) -> list[str]:
        return self.said("requests").split()
