"""Starts a real Ollama on the same small model, where someone has installed it."""

import os
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from local.direct import open_url
from local.model_server.engine import THREADS, packaged_model
from local.model_server.prompts import STOPS, TEMPLATE
from local.services.model import ModelHost
from local.services.process import Child, ServiceError, free_port

START_TIMEOUT_S = 30.0
CREATE_TIMEOUT_S = 120.0


class Ollama(ModelHost):
    """A real Ollama of ours, with `smollm2:135m` made from the packaged file."""

    def __init__(self, data_dir: Path) -> None:
        binary = find_ollama()
        data_dir.mkdir(parents=True, exist_ok=True)
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        environment = {
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(data_dir / "models"),
            "OLLAMA_NUM_PARALLEL": "1",
            "HOME": str(data_dir),
        }
        self._child = Child(
            "ollama",
            [binary, "serve"],
            log_path=data_dir / "ollama.log",
            env=environment,
            death_signal=signal.SIGTERM,
        )
        self._child.wait_until_ready(self.ping, timeout_s=START_TIMEOUT_S)
        try:
            self._create(binary, data_dir, environment)
        except BaseException:
            self.stop()
            raise

    @classmethod
    def start(cls, data_dir: Path) -> Self:
        """Raises ServiceError, also where no Ollama is installed."""
        return cls(data_dir.resolve())

    @property
    def pid(self) -> int:
        return self._child.pid

    def ping(self) -> None:
        with open_url(self.host, timeout=2) as answer:
            answer.read()

    def stop(self) -> None:
        self._child.stop([signal.SIGTERM], timeout_s=10)  # by which it ends its runner too

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _create(self, binary: Path, data_dir: Path, environment: dict[str, str]) -> None:
        stops = "".join(f"PARAMETER stop {stop}\n" for stop in STOPS)
        # As few as our own server takes: see local/model_server/engine.py.
        threads = f"PARAMETER num_thread {THREADS}\n"
        modelfile = data_dir / "Modelfile"
        modelfile.write_text(
            f'FROM {packaged_model()}\nTEMPLATE """{TEMPLATE}"""\n{stops}{threads}'
        )
        created = Child(
            "ollama create",
            [binary, "create", self.model, "-f", modelfile],
            log_path=data_dir / "create.log",
            env=environment,
        )
        if created.process.wait(timeout=CREATE_TIMEOUT_S) != 0:
            raise ServiceError(f"ollama create failed:\n{created.log_since_start()}")


def find_ollama() -> Path:
    """The program: OLLAMA_BIN, else on PATH, else where `go install` puts it."""
    if named := os.environ.get("OLLAMA_BIN"):
        return Path(named)
    go_path = Path(os.environ.get("GOPATH") or Path.home() / "go")
    for found in (shutil.which("ollama"), go_path / "bin" / "ollama"):
        if found and Path(found).exists():
            return Path(found)
    raise ServiceError(
        "no ollama: `go install github.com/ollama/ollama@v0.6.5`, or name it in OLLAMA_BIN"
    )
