"""Runs the SAM command line: the one on PATH, else one in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.aws.commands import ROOT, WORK, alone, need, run
from local.aws.forward import HOST_IN_CONTAINER
from local.services.process import Child, free_port

VERSION = "1.170.0"
_OWN = ROOT / ".lambent" / "sam"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What `sam local invoke` gave: the function's answer and everything it logged."""

    status: int
    answer: str
    log: str

    def json(self) -> Any:
        """The answer as a value; the log is shown where it is none."""
        try:
            return json.loads(self.answer)
        except ValueError:
            raise AssertionError(f"no JSON: {self.answer!r}\n{self.log[-4000:]}") from None


@dataclass(frozen=True, slots=True)
class StartLambda:
    """A running `sam local start-lambda`; `log` gives all that it and its functions wrote."""

    url: str
    log: Callable[[], str]


def ensure_sam() -> str:
    """The program; installed with uv where there is none. Raises `Missing`."""
    if found := shutil.which("sam"):
        return found
    program = _OWN / "bin" / "sam"
    need("uv")
    with alone("sam"):
        if not program.exists():
            run("uv", "venv", "--quiet", "--allow-existing", _OWN)
            run("uv", "pip", "install", "--quiet", "--python", _OWN, f"aws-sam-cli=={VERSION}")
    return str(program)


def ensure_built(into: Path, *, architecture: str) -> str:
    """Build unless what stands there was made of the same files; returns what `sam build` said."""
    said = into.with_name(f"{into.name}.log")
    with alone("build"):
        wanted = f"{architecture} {_inputs()}\n"
        if not (said.exists() and said.read_text().startswith(wanted)):
            said.unlink(missing_ok=True)
            said.write_text(wanted + build(into, architecture=architecture))
        return said.read_text().removeprefix(wanted)


def _inputs() -> str:
    """A hash of every file that a build is made of."""
    paths = [ROOT / name for name in ("template.yaml", "samconfig.toml", "uv.lock")]
    for name in ("layers", "functions", "local/aws/targets"):
        paths += (ROOT / name).rglob("*")
    paths += (ROOT / "local/aws").iterdir()
    hashed = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and path.suffix != ".pyc"):
        hashed.update(f"{path.relative_to(ROOT)} {path.stat().st_mode:o}\n".encode())
        hashed.update(hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()


def build(into: Path, *, architecture: str) -> str:
    """`sam build` of the whole template; returns what it said. Raises `Missing`, RuntimeError."""
    need("make", "uv")
    command = [ensure_sam(), "build", "--build-dir", str(into)]
    command += ["--parameter-overrides", f"Architecture={architecture}"]
    done = subprocess.run(
        command, cwd=ROOT, env=_environ(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"sam build failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def invoke(
    function: str,
    event: Mapping[str, Any],
    *,
    template: Path,
    variables: Mapping[str, str],
    folder: Path,
    architecture: str,
) -> Invocation:
    """`sam local invoke` of a built function in Docker. `folder` takes the files it reads."""
    event_path, variables_path = folder / "event.json", folder / "variables.json"
    event_path.write_text(json.dumps(event))
    variables_path.write_text(json.dumps({"Parameters": dict(variables)}))
    words = invoke_words(
        function, event=event_path, variables=variables_path, architecture=architecture
    )
    return said_to(words, template=template)


def said_to(words: Sequence[str], *, template: Path) -> Invocation:
    """What a line of `sam local invoke` gives, run for what was built elsewhere."""
    command = [ensure_sam(), *words[1:], *_of(template)]
    done = subprocess.run(
        command, cwd=ROOT, env=_environ(), capture_output=True, text=True, check=False, timeout=180
    )
    return Invocation(done.returncode, done.stdout, done.stderr)


@contextmanager
def start_lambda(
    *,
    template: Path,
    variables: Mapping[str, str],
    folder: Path,
    architecture: str,
    address: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[StartLambda]:
    """`sam local start-lambda` at `address` for as long as the block lasts; at a free port where
    none is given. ServiceError where it does not start."""
    port = port or free_port()
    variables_path = folder / "start-lambda.json"
    variables_path.write_text(json.dumps({"Parameters": dict(variables)}))
    words = start_lambda_words(variables=variables_path, architecture=architecture)
    command = [ensure_sam(), *words[1:], *_of(template), "--host", address, "--port", str(port)]
    server = Child(
        "sam local start-lambda",
        command,
        log_path=WORK / "start-lambda.log",
        env=_environ(),
        death_signal=signal.SIGTERM,
    )
    try:
        server.wait_until_ready(
            lambda: socket.create_connection((address, port), 1).close(), timeout_s=60
        )
        yield StartLambda(f"http://{address}:{port}", server.log_since_start)
    finally:
        # Ctrl-C is what makes it remove its containers.
        server.stop([signal.SIGINT, signal.SIGTERM], timeout_s=20)


def invoke_words(function: str, *, event: Path, variables: Path, architecture: str) -> list[str]:
    """The command line for what stands in `.aws-sam`, as a person types it."""
    return ["sam", "local", "invoke", function, "-e", str(event), *_with(variables, architecture)]


def start_lambda_words(*, variables: Path, architecture: str) -> list[str]:
    """The command line for what stands in `.aws-sam`, as a person types it."""
    given = _with(variables, architecture)
    return ["sam", "local", "start-lambda", *given, "--warm-containers", "LAZY"]


def _with(variables: Path, architecture: str) -> list[str]:
    reach = ["--add-host", f"{HOST_IN_CONTAINER}:host-gateway"]
    fitting = ["--parameter-overrides", f"Architecture={architecture}"]
    return ["-n", str(variables), *reach, *fitting]


def _of(template: Path) -> list[str]:
    """Built elsewhere, and run in an image that no registry may be asked for."""
    return ["--template", str(template), "--skip-pull-image"]


def _environ() -> dict[str, str]:
    # Credentials that lead nowhere: containers get them, and nothing here may reach AWS.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTEST_"))}
    return {
        **inherited,
        "SAM_CLI_TELEMETRY": "0",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        # It asks for the account's number before each invoke, and would wait for an answer.
        "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
