"""Runs one service as a child process: leashed to us, logged, awaited until it answers."""

import atexit
import contextlib
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
ROOT = Path(__file__).resolve().parents[2]
LOG_TAIL_LINES = 25
_PORTS = (20_000, 32_000)


class ServiceError(RuntimeError):
    """A service could not be started or has ended; the message holds its log's last lines."""


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that a child runs as."""

    uid: int
    gid: int


def free_port() -> int:
    """One below those that outgoing connections take: whoever gets it can have it again later."""
    while True:
        with socket.socket() as probe:
            port = random.SystemRandom().randrange(*_PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def require_free(name: str, port: int, *, timeout_s: float = 2.0) -> None:
    """ServiceError if someone else listens there: else we would take their answer for ours."""
    deadline_at = time.monotonic() + timeout_s
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return
            except OSError as error:
                problem = error.strerror
        if time.monotonic() > deadline_at:
            raise ServiceError(f"{name} cannot have port {port}: {problem}")
        time.sleep(0.05)


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


class _Spawner:
    """A thread that lives as long as the process and forks all children.

    Linux sends the death signal when the *thread* that forked ends, so a child started from a
    pool's worker would die with the worker.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pid = 0

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        done: Future[subprocess.Popen[bytes]] = Future()

        def order() -> None:
            try:
                done.set_result(start())
            except BaseException as error:  # handed to the caller's thread
                done.set_exception(error)

        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._orders = queue.SimpleQueue()
                threading.Thread(
                    target=self._serve, args=(self._orders,), name="spawner", daemon=True
                ).start()
            self._orders.put(order)
        return done.result()

    @staticmethod
    def _serve(orders: "queue.SimpleQueue[Callable[[], None]]") -> None:
        while True:
            orders.get()()


_spawner = _Spawner()


class Child:
    """One running process of ours, in its own session so that a Ctrl-C reaches only us."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        account: Account | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log_path = log_path
        user = f"{account.uid}:{account.gid}" if account else "-:-"
        leashed = [sys.executable, "-I", "-S", str(LEASH), str(int(death_signal)), str(os.getpid())]
        full = [*leashed, user, "--", *(str(part) for part in command)]
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            self.process = _spawner.run(
                lambda: subprocess.Popen(
                    full,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=None if env is None else {**os.environ, **env},
                    start_new_session=True,
                )
            )
        if sys.platform != "linux":
            atexit.register(self.kill)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log_since_start(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_until_ready(self, ping: Callable[[], object], *, timeout_s: float) -> None:
        """Return once `ping` does not raise; ServiceError if the child ends or time runs out."""
        deadline_at = time.monotonic() + timeout_s
        pause_s = 0.01
        while True:
            try:
                ping()
                return
            except Exception as error:  # whatever a service says while it starts
                problem = error
            if not self.alive:
                raise ServiceError(self._explain(f"ended with status {self.process.returncode}"))
            if time.monotonic() > deadline_at:
                self.kill()
                raise ServiceError(self._explain(f"not ready in {timeout_s:g} s ({problem})"))
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.1)

    def stop(self, signals: Sequence[signal.Signals], *, timeout_s: float) -> None:
        """Send each signal in turn until the child has ended, at last SIGKILL."""
        for each in signals:
            if not self.alive:
                return
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(each)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
                return
        self.kill()

    def kill(self) -> None:
        if self.alive:
            self.process.kill()
        self.process.wait()

    def _explain(self, what: str) -> str:
        return f"{self.name} {what}; the end of {self.log_path}:\n{log_tail(self.log_path)}"
