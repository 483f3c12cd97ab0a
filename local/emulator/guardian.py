"""Ends all processes of the stack when the one that started them is gone, however it went.

The guardian is a process of its own that reads the pids to watch from a pipe. When the pipe
closes, because its owner ended or was killed, it kills the process groups that are left.
"""

import asyncio
import os
import signal
import subprocess
import sys

_PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = set()
for line in sys.stdin:
    (pids.add if line[0] == "+" else pids.discard)(int(line[1:]))
for pid in pids:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            pass
"""


class Guardian:
    """Holds the pipe; `watch` and `forget` are safe at any time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, pid: int) -> None:
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        try:
            os.write(pipe.fileno(), line.encode())
        except BrokenPipeError:  # the guardian itself was killed: nothing left to tell
            pipe.close()

    async def close(self) -> None:
        """Let it go; what is still watched is killed."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        await asyncio.to_thread(self._process.wait)


def kill_group(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal the whole process group of `pid`; nothing if it is gone."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return
