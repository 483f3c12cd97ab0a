"""LocalStack on this machine, without Docker: its own environment, functions as processes.

`python -m local.aws.localstack` builds the template, deploys it through LocalStack's CloudFormation
and prints where it answers, until Ctrl-C. With `--endpoint` it deploys to a running LocalStack;
MONGO_URI, POSTGRES_DSN and OLLAMA_HOST then say what its containers reach.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from local.aws import sam
from local.aws.base_image import PYTHON, RUNTIME, architecture
from local.aws.bytecode import find_python
from local.aws.commands import ROOT, WORK, Missing, alone, need, run
from local.aws.deploy import Deployed, deploy
from local.services import ModelServer, Mongo, Postgres
from local.services.process import Child, free_port

HOME = ROOT / ".lambent" / "localstack"
PLUGIN = Path(__file__).with_name("localstack_plugin")
# The last release that needs no account; younger libraries do not fit it.
PACKAGES = ("localstack-core[runtime]==4.14.0", "localstack==4.14.0")
NEWEST = "2026-02-28"
START_LIMIT_S = 120.0


def ensure_environment() -> Path:
    """LocalStack's own Python, with our executor; installed once. Raises `Missing`."""
    need("uv")
    with alone("localstack"):
        return _install()


def _install() -> Path:
    python = HOME / "bin" / "python"
    stamp = HOME / "lambent-stamp"
    wanted = " ".join((*PACKAGES, *RUNTIME)) + "".join(
        path.read_text() for path in sorted(PLUGIN.glob("*.*"))
    )
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    base = find_python(PYTHON)
    if base is None:
        raise Missing(f"LocalStack runs functions as processes, and no Python {PYTHON} was found")
    install = ("uv", "pip", "install", "--quiet", "--link-mode", "copy")
    run("uv", "venv", "--quiet", "--allow-existing", "--python", base, HOME)
    run(*install, "--python", HOME, "--exclude-newer", NEWEST, *PACKAGES)
    run(*install, "--python", HOME, "--reinstall-package", "lambent-localstack-executor", PLUGIN)
    run(*install, "--python", base, "--target", HOME / "var-runtime", *RUNTIME)
    stamp.write_text(wanted)
    return python


def _emulator() -> Path:
    """Amazon's runtime interface emulator, which the SAM command line brings along."""
    program = Path(sam.ensure_sam()).resolve()
    pattern = f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{architecture()}"
    found = next(program.parent.parent.glob(pattern), None)
    if found is None:
        raise Missing(f"no aws-lambda-rie beside {program}; install aws-sam-cli with pip or uv")
    return found


class LocalStack:
    """A running LocalStack; everything it keeps is below `folder`."""

    def __init__(self, folder: Path) -> None:
        python = ensure_environment()
        target = find_python(PYTHON)
        if target is None:
            raise Missing(f"no Python {PYTHON} was found")
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        scratch = folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        emulator = scratch / "aws-lambda-rie"
        emulator.write_bytes(_emulator().read_bytes())
        emulator.chmod(0o755)
        self._child = Child(
            "LocalStack",
            [python, "-m", "localstack.runtime.main"],
            log_path=folder / "localstack.log",
            cwd=folder,
            env={
                "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
                "LAMBDA_RUNTIME_EXECUTOR": "process",
                "LAMBENT_RIE": str(emulator),
                "LAMBENT_PYTHON": target,
                "LAMBENT_RUNTIME": str(HOME / "var-runtime"),
                "FILESYSTEM_ROOT": str(folder / "files"),
                "TMPDIR": str(scratch),
                "SKIP_SSL_CERT_DOWNLOAD": "1",
                "DISABLE_EVENTS": "1",
                "DNS_ADDRESS": "0",
                "PYTHONPATH": "",
            },
            death_signal=signal.SIGTERM,
        )

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Ready to deploy to. Raises `Missing`, or ServiceError where it does not start."""
        started = cls(folder)
        started._child.wait_until_ready(started._ping, timeout_s=START_LIMIT_S)
        return started

    def _ping(self) -> None:
        with urllib.request.urlopen(f"{self.endpoint}/_localstack/health", timeout=2) as answer:
            json.load(answer)

    @property
    def pid(self) -> int:
        return self._child.pid

    def log(self) -> str:
        return self._child.log_since_start()

    def stop(self) -> None:
        self._child.stop([signal.SIGTERM], timeout_s=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.aws.localstack", description=__doc__)
    parser.add_argument("--endpoint", help="a running LocalStack, such as http://localhost:4566")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    build = WORK / "build"
    try:
        print("Building ...", flush=True)
        sam.ensure_built(build, architecture=architecture())
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            endpoint = given.endpoint
            if endpoint is None:
                print("Starting LocalStack ...", flush=True)
                endpoint = stack.enter_context(LocalStack.start(folder / "localstack")).endpoint
            variables = _services(stack, folder)
            print("Deploying ...", flush=True)
            _show(deploy(build / "template.yaml", endpoint=endpoint, parameters=variables))
            while True:
                time.sleep(3600)
    except Missing as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Stopping ...")


def _services(stack: contextlib.ExitStack, folder: Path) -> dict[str, str]:
    """The template's parameters: services that the environment names, else some of our own."""
    found = {"MongoUri": os.environ.get("MONGO_URI"), "PostgresDsn": os.environ.get("POSTGRES_DSN"),
             "OllamaHost": os.environ.get("OLLAMA_HOST")}  # fmt: skip
    if found["MongoUri"] is None:
        found["MongoUri"] = stack.enter_context(Mongo.start(folder)).uri
    if found["PostgresDsn"] is None:
        found["PostgresDsn"] = stack.enter_context(Postgres.start(folder)).dsn
    if found["OllamaHost"] is None:
        found["OllamaHost"] = stack.enter_context(ModelServer.start(folder)).host
    return {name: value for name, value in found.items() if value}


def _show(deployed: Deployed) -> None:
    key = deployed.admin_key or "(made before)"
    print(f"\nadmin key: {key}")
    for name, url in (("chat", deployed.chat), ("gateway", deployed.gateway)):
        print(f"{name}: curl {url.base}/health -H 'Host: {url.host}'")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
