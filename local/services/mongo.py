"""Starts a MongoDB-compatible server on a kept data folder.

It is the one of the `secantusdb` wheel, written in Python, unless `LAMBENT_MONGO_SERVER` names
another program that takes the same options: `secantusd-rs` is a crate, several times as fast. It
keeps what was acknowledged over a kill only with `--sync-on-commit`.
"""

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient

from local.services.process import Child, ServiceError, free_port, require_free

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
PORT_ATTEMPTS = 4


def server_command() -> list[str]:
    """How the server is started, without options. Raises ServiceError where there is none."""
    named = os.environ.get("LAMBENT_MONGO_SERVER")
    if named:
        program, *options = shlex.split(named)
        found = shutil.which(program)
        if found is None:
            raise ServiceError(f"no MongoDB: LAMBENT_MONGO_SERVER names {program}, no program here")
        return [found, *options]
    if importlib.util.find_spec("secantus") is None:
        raise ServiceError("no MongoDB: `uv sync` brings secantusdb, or set MONGO_URI")
    return [sys.executable, "-m", "secantus"]


class MongoHost:
    """A MongoDB that someone may make databases on; not necessarily a process of ours."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def drop_database(self, name: str) -> None:
        with self._client(timeout_s=20) as client:
            client.drop_database(name)

    def ping(self, *, timeout_s: float = 2.0) -> None:
        with self._client(timeout_s) as client:
            client.admin.command("ping")

    def _client(self, timeout_s: float) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.uri, serverSelectionTimeoutMS=int(timeout_s * 1000))


class Mongo(MongoHost):
    """A MongoDB-compatible server of ours, without authentication, on 127.0.0.1 only."""

    def __init__(self, data_dir: Path, *, port: int | None, standalone: bool) -> None:
        self._command = server_command()
        self.data_dir = data_dir
        self._standalone = standalone
        (data_dir / "mongo").mkdir(parents=True, exist_ok=True)
        self._launch(port)

    @classmethod
    def start(cls, data_dir: Path, *, port: int | None = None, standalone: bool = True) -> Self:
        """Start on `data_dir` (kept), on a free port unless one is named. Raises ServiceError.

        `standalone=False` shows itself as the primary of a replica set of one.
        """
        return cls(data_dir.resolve(), port=port, standalone=standalone)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    def stop(self) -> None:
        if self._child.alive:
            self._child.process.send_signal(signal.SIGTERM)
            # Its accept loop sits out two seconds unless one more connection wakes it.
            with contextlib.suppress(OSError):
                time.sleep(0.05)
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._child.stop([signal.SIGTERM], timeout_s=STOP_TIMEOUT_S)

    def kill(self) -> None:
        self._child.kill()

    def restart(self) -> None:
        """Stop if it runs, then start on the same folder and port."""
        self.stop()
        self._launch(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _ping_soon(self) -> None:
        # A driver that was refused once waits half a second before it looks again.
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self.ping()

    def _launch(self, port: int | None) -> None:
        config = self.data_dir / "mongo.toml"
        config.touch()  # an empty one of ours, so that none from the home folder is found
        if port:
            require_free("mongo", port)
        for attempt in range(PORT_ATTEMPTS):
            self.port = port or free_port()
            self.uri = f"mongodb://127.0.0.1:{self.port}"
            self._child = Child(
                "mongo",
                [
                    *self._command,
                    *("--config", config),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                    *("--storage-path", self.data_dir / "mongo", "--cache-size", "256M"),
                    *("--log-level", "WARNING"),
                    *(["--standalone"] if self._standalone else []),
                ],
                log_path=self.data_dir / "mongo.log",
                cwd=self.data_dir,
                # Not SIGTERM: it was seen to hang on that, and nobody is left then to insist. What
                # was acknowledged with a journal survives.
                death_signal=signal.SIGKILL,
            )
            try:
                self._child.wait_until_ready(self._ping_soon, timeout_s=START_TIMEOUT_S)
                return
            except ServiceError:
                taken = "Address already in use" in self._child.log_since_start()
                if attempt + 1 == PORT_ATTEMPTS or port is not None or not taken:
                    raise
