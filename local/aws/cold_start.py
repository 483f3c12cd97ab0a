"""Measures what each function imports before its first event, inside the Lambda base image.

`python -m local.aws.cold_start` builds, measures and prints a table. Every time is what a fresh
process took of a processor, less a bare interpreter's: on a busy machine the clock on the wall says
three times as much of one and not of the next. All are taken in turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.aws import base_image, docker, sam
from local.aws.commands import WORK, Missing
from local.aws.transform import read_template

ROUNDS = 9
# Unreachable on purpose: nothing may connect before its first event.
_SETTINGS = {"MONGO_URI": "mongodb://192.0.2.1", "POSTGRES_DSN": "postgresql://192.0.2.1/x"}
_DRIVERS = "from pymongo import AsyncMongoClient; import psycopg, httpx"
# The poller has nothing to ask of Postgres, ever (tests/functions/test_first_imports.py).
_DRIVERS_OF = {"Poller": "from pymongo import AsyncMongoClient; import httpx"}
_HELLO = f"""
import awslambdaric.bootstrap
from fastapi import FastAPI
from mangum import Mangum
app = FastAPI()
@app.get("/")
async def hello() -> dict[str, str]: return {{"hello": "world"}}
handler = Mangum(app, lifespan="off")
{_DRIVERS}
"""
# Runs in the container: starts each program in turn and prints seconds a program.
_DRIVER = """
import json, os, resource, subprocess, sys
programs, rounds = json.load(sys.stdin)
def spent():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
def run(program, *options):
    environ = {**os.environ, **program["environ"]}
    command = [sys.executable, *options, "-c", program["code"]]
    before = spent()
    where = program["folder"]
    done = subprocess.run(command, env=environ, cwd=where, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return spent() - before, done.stderr
times = {name: [] for name in programs}
for _ in range(rounds):
    for name, program in programs.items():
        times[name].append(run(program)[0])
traces = {name: run(program, "-X", "importtime")[1] for name, program in programs.items()}
json.dump([times, traces], sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Start:
    """One function's imports: milliseconds in all, and the slowest with what each took itself."""

    name: str
    import_ms: float
    share: float
    slowest: tuple[tuple[str, float], ...]


def measure(build: Path, *, rounds: int = ROUNDS) -> list[Start]:
    """Every function of the built template; `share` is of the FastAPI hello world with drivers."""
    template = read_template(build / "template.yaml")
    programs = {"bare": _program("pass", []), "hello": _program(_HELLO, ["CoreLayer", "WebLayer"])}
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            programs[name] = _function(name, resource["Properties"])
    times, traces = _run(build, programs, rounds)
    # The best of each: what else the machine does can only make one slower.
    took_ms = {name: (min(each) - min(times["bare"])) * 1000 for name, each in times.items()}
    return [
        Start(name, took_ms[name], took_ms[name] / took_ms["hello"], _slowest(traces[name]))
        for name in programs
        if name != "bare"
    ]


def _function(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    layers = [each["Ref"] for each in properties["Layers"]]
    runtime = "lambda_stream.start" if "RuntimeLayer" in layers else "awslambdaric.bootstrap"
    # With the drivers, although they are imported late: the first event needs them.
    drivers = _DRIVERS_OF.get(name, _DRIVERS)
    return _program(f"import {runtime}; import handler; {drivers}", layers, folder=name)


def _program(code: str, layers: list[str], *, folder: str = "") -> dict[str, Any]:
    path = [f"/build/{layer}/python" for layer in layers]
    if folder:
        path.insert(0, f"/build/{folder}")
    environ = {**_SETTINGS, "PYTHONPATH": ":".join([*path, "/var/runtime"])}
    return {"code": code, "environ": environ, "folder": "/tmp"}


def _run(build: Path, programs: Mapping[str, Any], rounds: int) -> tuple[Any, Any]:
    python = f"/var/lang/bin/python{base_image.PYTHON}"
    done = subprocess.run(
        ["docker", "run", "--rm", "-i", "-v", f"{build}:/build:ro", "--entrypoint", python,
         base_image.image_name(), "-c", _DRIVER],
        input=json.dumps([programs, rounds]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    times, traces = json.loads(done.stdout)
    return times, traces


def _slowest(trace: str, count: int = 10) -> tuple[tuple[str, float], ...]:
    """The modules that took longest themselves, in milliseconds (of `-X importtime`)."""
    found = []
    for line in trace.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            found.append((parts[2].strip(), int(parts[0]) / 1000))
    return tuple(sorted(found, key=lambda each: -each[1])[:count])


def show(starts: list[Start]) -> str:
    """A table for people."""
    lines = [f"{'':10} {'ms':>6} {'of hello':>9}  the slowest imports, each by itself (ms)"]
    for each in starts:
        slowest = ", ".join(f"{name} {ms:.0f}" for name, ms in each.slowest)
        lines.append(f"{each.name:10} {each.import_ms:6.0f} {each.share:9.2f}  {slowest}")
    return "\n".join(lines)


def main() -> None:
    try:
        with docker.running():
            base_image.ensure_image()
            sam.ensure_built(WORK / "build", architecture=base_image.architecture())
            print(show(measure(WORK / "build")))
    except Missing as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
