"""Starts our Ollama-API model server as a process of its own."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from local.direct import open_url
from local.services.process import Child, ServiceError, free_port, require_free

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
PORT_ATTEMPTS = 4


class ModelHost:
    """A server that speaks Ollama's API; not necessarily a process of ours."""

    model = "smollm2:135m"

    def __init__(self, host: str) -> None:
        self.host = host if "://" in host else f"http://{host}"

    def ping(self) -> None:
        with open_url(f"{self.host}/api/version", timeout=2) as answer:
            answer.read()


class ModelServer(ModelHost):
    """Our model server; `host` is "http://127.0.0.1:PORT"."""

    def __init__(self, data_dir: Path, *, port: int | None, env: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self._env = dict(env)
        data_dir.mkdir(parents=True, exist_ok=True)
        self._launch(port)

    @classmethod
    def start(
        cls, data_dir: Path, *, port: int | None = None, env: Mapping[str, str] | None = None
    ) -> Self:
        """Start it, on a free port unless one is named. Raises ServiceError.

        `env` may hold OLLAMA_MAX_QUEUE, OLLAMA_NUM_PARALLEL and OLLAMA_KEEP_ALIVE. It answers
        before the model is loaded; a first request waits for it.
        """
        return cls(data_dir.resolve(), port=port, env=env or {})

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    def stop(self) -> None:
        self._child.stop([signal.SIGTERM], timeout_s=STOP_TIMEOUT_S)

    def kill(self) -> None:
        self._child.kill()

    def restart(self) -> None:
        """Stop if it runs, then start on the same port."""
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

    def _launch(self, port: int | None) -> None:
        if port:
            require_free("model server", port)
        for attempt in range(PORT_ATTEMPTS):
            self.port = port or free_port()
            self.host = f"http://127.0.0.1:{self.port}"
            self._child = Child(
                "model",
                [sys.executable, "-m", "local.model_server", "--port", str(self.port)],
                log_path=self.data_dir / "model.log",
                env=self._env,
                death_signal=signal.SIGKILL,
            )
            try:
                self._child.wait_until_ready(self.ping, timeout_s=START_TIMEOUT_S)
                return
            except ServiceError:
                taken = "ddress already in use" in self._child.log_since_start()
                if attempt + 1 == PORT_ATTEMPTS or port is not None or not taken:
                    raise
