"""Runs LocalStack's functions as processes: the runtime interface emulator around a Python.

LocalStack's own executor wants Docker and a download; this one wants neither. It lives in
LocalStack's environment, so it imports nothing of this repository. Configured by LAMBENT_RIE (the
emulator's program), LAMBENT_PYTHON (the target's Python) and LAMBENT_RUNTIME (what Lambda keeps in
/var/runtime: awslambdaric, boto3).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from localstack.services.lambda_.invocation.lambda_models import (  # type: ignore[import-not-found]
    FunctionVersion,
    InvocationResult,
)
from localstack.services.lambda_.invocation.plugins import (  # type: ignore[import-not-found]
    RuntimeExecutorPlugin,
)
from localstack.services.lambda_.invocation.runtime_executor import (  # type: ignore[import-not-found]
    RuntimeExecutor,
)

_START_LIMIT_S = 10.0
_STOP_LIMIT_S = 2.0
_EDGE = "127.0.0.1"
# /opt is one folder on Lambda; here each version has its own, and paths of the template follow it.
_OPT = "/opt/"
_BOOTSTRAP = """\
#!/bin/sh
if [ -n "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
  exec "$AWS_LAMBDA_EXEC_WRAPPER" "$LAMBENT_PYTHON" -m awslambdaric "$_HANDLER"
fi
exec "$LAMBENT_PYTHON" -m awslambdaric "$_HANDLER"
"""


class ProcessExecutorPlugin(RuntimeExecutorPlugin):  # type: ignore[misc]
    """What LocalStack finds under LAMBDA_RUNTIME_EXECUTOR=process."""

    name = "process"

    def load(self, *args: Any, **kwargs: Any) -> type[ProcessExecutor]:
        return ProcessExecutor


class ProcessExecutor(RuntimeExecutor):  # type: ignore[misc]
    """One execution environment: a process group, a port of its own, a log file."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id=id, function_version=function_version)
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._api_port = _free_port(), _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix=f"lambda-{function_version.id.function_name}-"))
        self._log = self._folder / "log"

    def start(self, env_vars: dict[str, Any]) -> None:
        code = self.function_version.config.code.get_unzipped_code_location()
        bootstrap = self._folder / "start"
        bootstrap.write_text(_BOOTSTRAP)
        bootstrap.chmod(0o755)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    os.environ["LAMBENT_RIE"],
                    "--runtime-interface-emulator-address", f"{_EDGE}:{self._port}",
                    # It reads LOG_LEVEL too, which is the function's and may be empty.
                    "--log-level", "error",
                    "--runtime-api-address", f"{_EDGE}:{self._api_port}",
                    str(bootstrap),
                ],
                cwd=code,
                env=self._environ(env_vars, Path(code)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        until_s = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < until_s and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((_EDGE, self._port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the runtime interface emulator does not start: {self.get_logs()}")

    def _environ(self, given: dict[str, Any], code: Path) -> dict[str, str]:
        opt = _opt_of(self.function_version)
        environ = {name: str(value).replace(_OPT, f"{opt}/") if name == "AWS_LAMBDA_EXEC_WRAPPER"
                   else str(value) for name, value in given.items()}  # fmt: skip
        # LocalStack tells where it is to SDKs; the nudges' small signer asks for this name.
        if url := environ.get("AWS_ENDPOINT_URL"):
            environ["AWS_ENDPOINT_URL_LAMBDA"] = environ.get("AWS_ENDPOINT_URL_LAMBDA") or url
        path = (code, opt / "python", os.environ["LAMBENT_RUNTIME"])
        return environ | {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "LAMBDA_TASK_ROOT": str(code),
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LAMBENT_PYTHON": os.environ["LAMBENT_PYTHON"],
        }

    def stop(self) -> None:
        if self._process is not None:
            # The whole group: the emulator leaves its runtime behind when it is killed.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_LIMIT_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        request = urllib.request.Request(
            f"http://{_EDGE}:{self._port}/2015-03-31/functions/function/invocations",
            data=payload["payload"].encode(),
            headers={"Content-Type": "application/json"},
        )
        limit_s = self.function_version.config.timeout + 15
        start = self._log.stat().st_size
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=limit_s) as answer:
                body, failed = answer.read(), False
        except urllib.error.HTTPError as error:
            body, failed = error.read(), True
        with self._log.open("rb") as log:
            log.seek(start)
            logs = log.read().decode(errors="replace")
        return InvocationResult(
            request_id=payload["invoke-id"],
            payload=body,
            is_error=failed or _is_function_error(body),
            logs=logs,
        )

    def get_address(self) -> str:
        return _EDGE

    def get_endpoint_from_executor(self) -> str:
        return _EDGE

    def get_runtime_endpoint(self) -> str:
        return f"http://{_EDGE}:{self._port}"

    def get_logs(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        function_version.config.code.prepare_for_execution()
        _opt_of(function_version)

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing: the folders are LocalStack's own, and go with it."""


def _opt_of(version: FunctionVersion) -> Path:
    """The version's /opt: its layers, one over the other. Made once."""
    code = version.config.code.get_unzipped_code_location()
    named = " ".join(layer.layer_version_arn for layer in version.config.layers)
    opt = Path(code).with_name(f"opt-{hashlib.sha256(named.encode()).hexdigest()[:12]}")
    if opt.exists() or not version.config.layers:
        return opt
    making = Path(tempfile.mkdtemp(dir=opt.parent))
    for layer in version.config.layers:
        layer.code.prepare_for_execution()
        source = layer.code.get_unzipped_code_location()
        # Hard links: the same file system, and nobody writes to a layer.
        shutil.copytree(source, making, dirs_exist_ok=True, copy_function=os.link)
    with contextlib.suppress(OSError):  # another thread was faster
        making.rename(opt)
    shutil.rmtree(making, ignore_errors=True)
    return opt


def _is_function_error(body: bytes) -> bool:
    """The emulator answers 200 for a function's own error, too."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and {"errorMessage", "errorType"} <= answer.keys()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_EDGE, 0))
        return int(probe.getsockname()[1])
