"""Runs the whole platform as a user does, for tests that look from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT_S = 90.0
STOP_LIMIT_S = 15.0
_REFUSED = re.compile("nudge failed.*status 403")


@dataclass(frozen=True, slots=True)
class Stack:
    """A running platform; `ready` is what its ready.json said when it came up."""

    process: subprocess.Popen[bytes]
    data: Path
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def admin_key(self) -> str:
        return str(self.ready["admin_key"])

    def pids(self) -> dict[str, Any]:
        """The process ids as they are now."""
        pids: dict[str, Any] = json.loads((self.data / "ready.json").read_text())["pids"]
        return pids

    def logs(self) -> str:
        """Everything that any process of the platform wrote to a log."""
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.data.rglob("*.log")))

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client that sends this key; the admin's where none is given."""
        headers = {"Authorization": f"Bearer {self.admin_key if key is None else key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def new_key(self, **fields: Any) -> str:
        """A fresh key of a fresh client, with every scope but `admin` unless told otherwise."""
        body = {"name": "test", "client": f"client-{os.urandom(4).hex()}", "scopes": ["chat"]}
        with self.client() as client:
            answer = client.post("/keys", json={**body, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])


@contextmanager
def running_stack(
    data: Path, environ: Mapping[str, str] | None = None, *, flags: Sequence[str] = ()
) -> Iterator[Stack]:
    """`./local/up --port 0 --data DIR` (and more flags) from ready to stopped."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTEST_"))}
    output = (data.parent / f"{data.name}.out").open("wb")
    process = subprocess.Popen(
        [str(ROOT / "local/up"), "--port", "0", "--data", str(data), *flags],
        cwd=ROOT,
        env={**inherited, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        stack = Stack(process=process, data=data, ready=_wait_until_ready(process, data))
        yield stack
        # A nudge that its function's role does not grant is lost on AWS, where nobody would see it.
        refused = [line for line in stack.logs().splitlines() if _REFUSED.search(line)]
        assert not refused, refused[:3]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.close()


def _wait_until_ready(process: subprocess.Popen[bytes], data: Path) -> dict[str, Any]:
    until = time.monotonic() + READY_LIMIT_S
    ready = data / "ready.json"
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if ready.exists():
            said: dict[str, Any] = json.loads(ready.read_text())
            return said
        time.sleep(0.05)
    raise AssertionError((data.parent / f"{data.name}.out").read_text(errors="replace")[-4000:])


def frames(text: str) -> list[dict[str, Any] | str]:
    """The data of each SSE frame in a whole stream's text; `[DONE]` stays a string."""
    found = re.findall(r"^data: (.*)$", text, re.M)
    return [one if one == "[DONE]" else json.loads(one) for one in found]


def is_running(pid: int) -> bool:
    """Whether a process of this id exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())
