"""Runs the commands that fetch and prepare what the AWS side needs; a failed one is tried twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".lambent" / "aws"
_PAUSE_S = 3.0
_PACKAGES = {"docker": "docker.io", "dockerd": "docker.io"}  # a program's, where it is not its name


class Missing(Exception):
    """A tool that this needs is not here; the message says how to get it."""


def need(*programs: str) -> None:
    """Raises `Missing` that names every program which is not on PATH.

    On a machine of the checks (CI=true, root, Debian) they are installed instead.
    """
    absent = [program for program in programs if not shutil.which(program)]
    if absent and _may_install():
        _install(absent)
        absent = [program for program in absent if not shutil.which(program)]
    if absent:
        advice = f"on Debian: apt-get install {' '.join(_packages(absent))}"
        raise Missing(f"{', '.join(absent)} not found; {advice}")


def run(
    *command: str | Path, tries: int = 2, limit_s: float = 300, env: Mapping[str, str] | None = None
) -> str:
    """What the command printed. A registry may stumble once: so it is tried twice. `Missing`."""
    words = [str(word) for word in command]
    said = ""
    for attempt in range(1, tries + 1):
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, check=False, cwd=ROOT,
                timeout=limit_s, env=None if env is None else dict(env),
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout
            said = (done.stderr or done.stdout).strip()[-2000:]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if attempt < tries:
            print(f"{words[0]} failed, and is tried again: {said[-300:]}", file=sys.stderr)
            time.sleep(_PAUSE_S)
    raise Missing(f"`{' '.join(words[:4])}` failed: {said}")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One process of this checkout at a time does what `name` stands for."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _may_install() -> bool:
    on_a_laptop = os.environ.get("CI") != "true" or os.geteuid() != 0
    return not on_a_laptop and shutil.which("apt-get") is not None


def _packages(programs: Iterable[str]) -> list[str]:
    return sorted({_PACKAGES.get(name, name) for name in programs})


def _install(programs: list[str]) -> None:
    with alone("packages"):
        absent = _packages(name for name in programs if not shutil.which(name))
        if not absent:  # another process was faster
            return
        print(f"apt-get install {' '.join(absent)}", file=sys.stderr)
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # Another `apt-get` of the machine is waited for.
        patient = ("-qq", "-o", "DPkg::Lock::Timeout=120")
        run("apt-get", *patient, "update", env=environ)
        run("apt-get", *patient, "install", "--no-install-recommends", *absent, env=environ)
