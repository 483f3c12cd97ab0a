"""Docker for the tests: the daemon that runs, else one of ours for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".lambent" / "aws"
START_LIMIT_S = 30.0
# `overlay2` is much faster, but does not stand on every file system that a container has.
_DRIVERS = ((), ("--storage-driver=vfs",))


class Missing(Exception):
    """A tool that this needs is not here; the message says how to get it."""


def need(*programs: str) -> None:
    """Raises `Missing` that names every program which is not on PATH."""
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        raise Missing(f"{', '.join(absent)} not found; on Debian: apt-get install "
                      + " ".join(_PACKAGES.get(name, name) for name in absent))  # fmt: skip


_PACKAGES = {"docker": "docker.io", "dockerd": "docker.io", "iptables": "iptables"}


def answers() -> bool:
    """Whether a Docker daemon answers this user."""
    if not shutil.which("docker"):
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


@contextmanager
def running() -> Iterator[None]:
    """A Docker daemon; one that was started here is stopped again. Raises `Missing`."""
    need("docker")
    if answers():
        yield
        return
    need("dockerd", "iptables")
    if os.geteuid() != 0:
        raise Missing("no Docker daemon answers, and only root can start one")
    daemon = _start()
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _start() -> subprocess.Popen[bytes]:
    WORK.mkdir(parents=True, exist_ok=True)
    log_path = WORK / "dockerd.log"
    for options in _DRIVERS:
        with log_path.open("ab") as log:
            daemon = subprocess.Popen(
                ["dockerd", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until_s = time.monotonic() + START_LIMIT_S
        while daemon.poll() is None and time.monotonic() < until_s:
            if answers():
                return daemon
            time.sleep(0.2)
        daemon.kill()
        daemon.wait()
    tail = log_path.read_text(errors="replace").splitlines()[-5:]
    raise Missing("dockerd does not start: " + " | ".join(tail))
