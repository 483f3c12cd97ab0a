"""Starts lambda_stream as Lambda would: through its wrapper script, with the environment it has."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = Path(__file__).parent / "functions"
WRAPPER = ROOT / "layers/runtime/lambda-stream"


def runtime_environment(handler: str, **extra: str) -> dict[str, str]:
    """A clean environment: nothing of the machine's AWS settings leaks in."""
    return {
        "PATH": os.environ["PATH"],
        "_HANDLER": handler,
        "LAMBDA_TASK_ROOT": str(FUNCTIONS),
        "AWS_LAMBDA_FUNCTION_NAME": "sample",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONDEVMODE": "1",
        **extra,
    }


class RuntimeProcess:
    """One execution environment; its output is gathered line by line."""

    def __init__(self, handler: str, address: str, **extra: str) -> None:
        environment = runtime_environment(handler, **{"AWS_LAMBDA_RUNTIME_API": address, **extra})
        self._process = subprocess.Popen(
            [str(WRAPPER), sys.executable],
            env=environment,
            cwd=FUNCTIONS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Wait until a line holds `text`."""
        ends_at_s = time.monotonic() + timeout_s
        while text not in self.output:
            assert time.monotonic() < ends_at_s, f"{text!r} not in:\n{self.output}"
            time.sleep(0.01)

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout_s: float = 30.0) -> int:
        status = self._process.wait(timeout_s)
        self._reader.join(5)
        return status

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(5)
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
