"""Docker for the tests: the daemon that runs, else one of ours for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from local.aws.commands import WORK, Missing, alone, need
from local.services import ServiceError
from local.services.process import Child

START_LIMIT_S = 30.0
# `overlay2` is much faster, but does not stand on every file system that a container has.
_DRIVERS = ((), ("--storage-driver=vfs",))


def answers() -> bool:
    """Whether a Docker daemon answers this user."""
    if not shutil.which("docker"):
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


@contextmanager
def running() -> Iterator[None]:
    """A Docker daemon; one that was started here is stopped again. Raises `Missing`."""
    if answers():
        yield
        return
    need("docker", "dockerd", "iptables")
    if os.geteuid() != 0:
        raise Missing("no Docker daemon answers, and only root can start one")
    with alone("dockerd"):
        daemon = None if answers() else _start()
    try:
        yield
    finally:
        if daemon is not None:
            daemon.stop([signal.SIGTERM], timeout_s=20)


def _start() -> Child:
    WORK.mkdir(parents=True, exist_ok=True)
    problem, program = "", shutil.which("dockerd") or "dockerd"
    for options in _DRIVERS:
        # A child on our leash: it ends with us, however we end.
        daemon = Child(
            "dockerd",
            [program, *options],
            log_path=WORK / "dockerd.log",
            death_signal=signal.SIGTERM,
        )
        try:
            daemon.wait_until_ready(_ping, timeout_s=START_LIMIT_S)
            return daemon
        except ServiceError as error:
            problem = str(error)
    raise Missing(problem)


def _ping() -> None:
    if not answers():
        raise ConnectionError("the daemon does not answer")
