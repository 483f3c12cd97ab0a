"""Docker for the tests: the daemon that runs, else one of ours for as long as it is needed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.aws.commands import WORK, Missing, need, run
from local.services import ServiceError
from local.services.process import Child

START_LIMIT_S = 60.0
# `overlay2` is much faster, but does not stand on every file system that a container has.
_DRIVERS = ((), ("--storage-driver=vfs",))


def answers() -> bool:
    """Whether a Docker daemon answers this user."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:  # a daemon whose process hangs
        return False
    return done.returncode == 0


def bridge_address() -> str:
    """The address of Docker's machine on its default network. Raises `Missing`."""
    gateway = "{{(index .IPAM.Config 0).Gateway}}"
    shown = run("docker", "network", "inspect", "bridge", "--format", gateway)
    return shown.strip() or "172.17.0.1"


@contextmanager
def running() -> Iterator[None]:
    """A Docker daemon; one that was started here is stopped again, once nobody uses it any more.

    Whoever uses it through this function, in whatever checkout, holds the lock `use`; it is
    started and stopped under the lock `change`. Raises `Missing`.
    """
    if not answers():
        need("docker", "dockerd", "iptables")
        if os.geteuid() != 0:
            raise Missing("no Docker daemon answers, and only root can start one")
    with _locked("dockerd") as change, _locked("docker") as use:
        fcntl.flock(change, fcntl.LOCK_EX)
        daemon = None if answers() else _Daemon()
        fcntl.flock(use, fcntl.LOCK_SH)
        fcntl.flock(change, fcntl.LOCK_UN)
        try:
            yield
        finally:
            if daemon is not None:
                fcntl.flock(change, fcntl.LOCK_EX)  # nobody comes in any more,
                fcntl.flock(use, fcntl.LOCK_EX)  # and the last one goes
                daemon.stop()


@contextmanager
def _locked(program: str) -> Iterator[int]:
    """A descriptor to lock: the program's own file is one for the whole machine."""
    descriptor = os.open(shutil.which(program) or __file__, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # gives the lock up


class _Daemon:
    """A `dockerd` on our leash: it ends with us, however we end.

    What it writes down of itself lies in a folder of its own: the process ids that a killed daemon
    left behind may be other processes' by now, and would keep a new one from starting.
    """

    def __init__(self) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
        problem, program = "", shutil.which("dockerd") or "dockerd"
        own = (f"--pidfile={self._folder / 'pid'}", f"--exec-root={self._folder / 'exec'}")
        for options in _DRIVERS:
            self._child = Child(
                "dockerd",
                [program, *own, *options],
                log_path=WORK / "dockerd.log",
                death_signal=signal.SIGTERM,
            )
            try:
                self._child.wait_until_ready(_ping, timeout_s=START_LIMIT_S)
                return
            except ServiceError as error:
                problem = str(error)
        shutil.rmtree(self._folder, ignore_errors=True)
        raise Missing(problem)

    def stop(self) -> None:
        self._child.stop([signal.SIGTERM], timeout_s=20)
        shutil.rmtree(self._folder, ignore_errors=True)


def _ping() -> None:
    if not answers():
        raise ConnectionError("the daemon does not answer")
