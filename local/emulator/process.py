"""Starts the process of one function environment the way Lambda's bootstrap would."""

import asyncio
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from local.emulator.intrinsics import TemplateError, Unresolved
from local.emulator.settings import EmulatorSettings
from local.emulator.template import REGION, Function, UrlMode

# A function's process sees the template's variables and Lambda's own; these few of the machine
# are what it takes to run a process here at all, or to reach the network from behind a proxy.
_INHERITED = (
    "PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def declared_environment(function: Function, settings: EmulatorSettings) -> dict[str, str]:
    """The template's variables: the stack's value first, then the shell's, then the template's."""
    variables: dict[str, str] = {}
    missing: list[str] = []
    for name, value in function.environment.items():
        if name in settings.overrides:
            variables[name] = settings.overrides[name]
        elif name in os.environ and not name.startswith("AWS_LAMBDA_"):
            variables[name] = os.environ[name]
        elif isinstance(value, Unresolved):
            missing.append(f"{name} (needs {value.what})")
        else:
            variables[name] = value
    if missing:
        raise TemplateError(
            f"{function.logical_id}: only AWS knows the value of {', '.join(missing)}; "
            "set it in the shell"
        )
    return variables


def process_environment(
    function: Function, settings: EmulatorSettings, *, runtime_api: str, invoke_url: str
) -> dict[str, str]:
    """The whole environment of the process."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    paths = [function.code, *(_packages(layer) for layer in function.layers)]
    lambda_own = {
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"local/[{function.version}]{runtime_api.rpartition(':')[2]}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        # Tells the Invoke API whose role is asking.
        "AWS_ACCESS_KEY_ID": function.name,
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_SESSION_TOKEN": "local",
        "LAMBDA_TASK_ROOT": str(function.code),
        "LAMBDA_RUNTIME_DIR": str(Path(sys.executable).parent),
        "_HANDLER": function.handler,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }
    drain = {}
    if settings.drain_s and function.url is UrlMode.RESPONSE_STREAM:
        drain["LAMBDA_STREAM_DRAIN_MS"] = str(int(settings.drain_s * 1000))
    declared = declared_environment(function, settings)
    # The template's own parameter is empty, which means AWS; here nothing reaches AWS.
    lambda_own["AWS_ENDPOINT_URL_LAMBDA"] = declared.get("AWS_ENDPOINT_URL_LAMBDA") or invoke_url
    return inherited | drain | dict(settings.extra) | declared | lambda_own


def command(function: Function, variables: dict[str, str]) -> list[str]:
    """What to run: the exec wrapper where the function has one, else the managed runtime."""
    managed = [sys.executable, "-m", "awslambdaric", function.handler]
    streaming = [sys.executable, "-m", "lambda_stream", function.handler]
    wrapper = variables.get("AWS_LAMBDA_EXEC_WRAPPER")
    if wrapper:
        script = _wrapper_script(function, wrapper)
        if script is None:
            return streaming
        return [script, *managed] if os.access(script, os.X_OK) else ["/bin/sh", script, *managed]
    return managed if importlib.util.find_spec("awslambdaric") else streaming


async def spawn(function: Function, variables: dict[str, str]) -> asyncio.subprocess.Process:
    """Start it in a process group of its own; stdout and stderr come back as one pipe."""
    program, *arguments = command(function, variables)
    return await asyncio.create_subprocess_exec(
        shutil.which(program) or program,
        *arguments,
        cwd=function.code,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


def peak_memory_mb(pid: int) -> int | None:
    """The most that the process has held in memory, where the system tells (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return None


def exit_words(code: int) -> str:
    """How Lambda words the end of a process."""
    if code < 0:
        name = {9: "killed", 15: "terminated", 11: "segmentation fault", 6: "aborted"}
        return f"Runtime exited with error: signal: {name.get(-code, -code)}"
    if code == 0:
        return "Runtime exited without providing a reason"
    return f"Runtime exited with error: exit status {code}"


def _packages(layer: Path) -> Path:
    """Where a layer keeps its importable packages: as built, or as in this workspace."""
    return next((folder for name in ("python", "src") if (folder := layer / name).is_dir()), layer)


def _wrapper_script(function: Function, wrapper: str) -> str | None:
    """`/opt/<path>` is a layer's content; any other path is looked up as it is."""
    name = wrapper.removeprefix("/opt/")
    places = [layer / name for layer in function.layers] if name != wrapper else [Path(wrapper)]
    return next((str(place) for place in places if place.is_file()), None)
