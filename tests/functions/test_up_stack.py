"""`./local/up` as a person uses it: one command, a curl that works, nothing left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.emulator_toys import STREAM_URL, STREAMING, URL, Toys, gone

ROOT = Path(__file__).resolve().parents[2]
NAMED = {
    "POSTGRES_DSN": "postgresql://named/db",
    "MONGO_URI": "mongodb://named",
    "OLLAMA_HOST": "http://named",
}
DECLARED = dict.fromkeys([*NAMED, "CALLBACK_BASE_URL"], "")
CHAT = """
async def handler(scope, receive, send):
    start = {"type": "http.response.start", "status": 200}
    await send(start | {"headers": [(b"content-type", b"text/event-stream")]})
    body = await receive()
    for frame in (body["body"], b" [DONE]"):
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body"})
"""
GATEWAY = """
import os, time
def handler(event, context):
    time.sleep(float(event["rawQueryString"] or 0))
    back = os.environ["CALLBACK_BASE_URL"]
    return {"pid": os.getpid(), "mongo": os.environ["MONGO_URI"], "back": back}
"""
SETUP = "def handler(event, context):\n    return {'admin_key': KEY}\n"


class Up:
    """A running `up` over toy functions, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.process: subprocess.Popen[str] | None = None
        self.output = folder / "output.txt"

    def toys(self, *, setup: str = SETUP.replace("KEY", "'lam_toy'")) -> None:
        toys = Toys(self.folder / "toys")
        toys.add("chat", CHAT, env=DECLARED | STREAMING, **STREAM_URL)
        toys.add("gateway", GATEWAY, env=DECLARED, **URL)
        toys.add("setup", setup, env=DECLARED).write()

    def start(self, *arguments: str, env: dict[str, str] = NAMED) -> "Up":
        clean = {key: value for key, value in os.environ.items() if key not in NAMED}
        template = self.folder / "toys" / "template.yaml"
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "local", "up", "--port", "0"),
                    *("--data", str(self.data), "--template", str(template), *arguments),
                ],
                cwd=ROOT,
                env={**clean, **env},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self

    def ready(self, within_s: float = 60.0) -> dict[str, Any]:
        assert self.process is not None
        path = self.data / "ready.json"
        until_s = time.monotonic() + within_s
        while not path.exists():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < until_s, self.output.read_text()
            time.sleep(0.02)
        return self.content()

    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "ready.json").read_text())
        return found

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def leftovers(self) -> list[str]:
        """Processes that work in our folder, or on it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if str(self.folder) in words + str((entry / "cwd").readlink()):
                    found.append(words)
            except OSError:
                continue
        return found


def eventually(condition: Any, within_s: float = 30.0) -> None:
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    running.toys()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.end(signal.SIGTERM)
    eventually(lambda: not running.leftovers())


def test_the_printed_curl_works_as_pasted(up: Up) -> None:
    ready = up.start().ready()
    printed = re.search(r"^curl .*?(?<!\\)$", up.output.read_text(), re.MULTILINE | re.DOTALL)
    assert printed is not None
    assert "lam_toy" in printed[0]
    answer = subprocess.run(printed[0], shell=True, capture_output=True, text=True, check=True)
    assert answer.stdout == '{"agent": "chat", "input": "Hello! Who are you?"} [DONE]'
    assert ready["url"] in printed[0]


def test_ready_json_tells_how_to_reach_everything(up: Up) -> None:
    ready = up.start().ready()
    assert ready["admin_key"] == "lam_toy"
    assert ready["mongo_uri"] == NAMED["MONGO_URI"]
    assert ready["postgres_dsn"] == NAMED["POSTGRES_DSN"]
    assert ready["ollama_host"] == NAMED["OLLAMA_HOST"]
    assert set(ready["pids"]) == {"functions"}  # named services are not ours
    assert len(ready["pids"]["functions"]["chat"]) == 1
    private = [up.data / "ready.json", *up.data.glob("admin*.key")]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600, 0o600]
    answer = httpx.get(f"{ready['url']}/anything").json()
    assert answer["pid"] in ready["pids"]["functions"]["gateway"]
    assert answer["mongo"] == NAMED["MONGO_URI"]


def test_pids_are_kept_current(up: Up) -> None:
    (pid,) = up.start().ready()["pids"]["functions"]["gateway"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: up.content()["pids"]["functions"]["gateway"] == [])
    fresh = httpx.get(f"{up.content()['url']}/").json()["pid"]
    eventually(lambda: up.content()["pids"]["functions"]["gateway"] == [fresh])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing_behind(up: Up, number: signal.Signals) -> None:
    up.start().ready()
    assert up.end(number) == 0
    assert up.leftovers() == []
    assert not (up.data / "ready.json").exists()


def test_a_stop_lets_a_short_request_end(up: Up) -> None:
    url = up.start().ready()["url"]
    with httpx.Client() as client, client.stream("GET", f"{url}/?0") as warm:
        warm.read()
    log = up.data / "logs" / "gateway.log"
    before = log.read_text().count("START")
    ask = f"import httpx; print(httpx.get('{url}/?0.7').status_code)"
    asking = subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    eventually(lambda: log.read_text().count("START") > before)
    up.end()
    assert asking.communicate(timeout=20)[0] == "200\n"


def test_a_stop_lets_a_chat_end(up: Up) -> None:
    handler = up.folder / "toys" / "functions" / "chat" / "handler.py"
    slow = CHAT.replace("        await send", "        await sleep(0.7)\n        await send")
    handler.write_text("from asyncio import sleep\n" + slow)
    url = up.start().ready()["url"]
    with httpx.stream("POST", f"{url}/chat/stream", content=b"{}", timeout=30) as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        assert up.process is not None
        up.process.send_signal(signal.SIGINT)
        assert first + b"".join(pieces) == b"{} [DONE]"
    assert up.process.wait(timeout=20) == 0
    assert up.leftovers() == []


def test_a_stop_breaks_a_stream_that_would_go_on(up: Up) -> None:
    handler = up.folder / "toys" / "functions" / "chat" / "handler.py"
    endless = CHAT.replace('await send({"type": "http.response.body"})', "await sleep(600)")
    handler.write_text("from asyncio import sleep\n" + endless)
    url = up.start().ready()["url"]
    with httpx.stream("POST", f"{url}/chat/stream", content=b"{}", timeout=30) as answer:
        next(answer.iter_raw())
        assert up.end() == 0
    assert up.leftovers() == []


def test_a_stop_while_it_starts_leaves_nothing_behind(up: Up) -> None:
    up.start(env={})  # with services of its own
    eventually(lambda: len(up.leftovers()) > 1)  # itself and its first service
    up.end()
    eventually(lambda: not up.leftovers())


def test_a_kill_leaves_nothing_behind(up: Up) -> None:
    up.start(env={}).ready()
    up.end(signal.SIGKILL)
    eventually(lambda: not up.leftovers())


def test_a_second_up_on_the_same_data_is_refused(up: Up) -> None:
    up.start().ready()
    second = Up(up.folder)
    second.output = up.folder / "second.txt"
    assert second.start().process.wait(timeout=30) == 1  # type: ignore[union-attr]
    assert re.search(r"in use by another `up` \(process \d+\)", second.output.read_text())
    assert up.content()["url"]


def test_a_port_that_is_taken_is_a_clear_error(up: Up) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert up.start("--port", str(port)).process.wait(timeout=30) == 1  # type: ignore[union-attr]
    assert f"port {port} cannot be used" in up.output.read_text()


def test_functions_know_where_others_call_back(up: Up) -> None:
    ready = up.start().ready()
    assert httpx.get(f"{ready['url']}/").json()["back"] == ready["url"]
    up.end()
    named = {"CALLBACK_BASE_URL": "https://tunnel.example.com"}
    ready = up.start(env=NAMED | named).ready()
    assert httpx.get(f"{ready['url']}/").json()["back"] == named["CALLBACK_BASE_URL"]


def test_a_failing_setup_is_a_clear_error(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.toys(setup="def handler(event, context):\n    raise RuntimeError('no tables today')\n")
    assert up.start().process.wait(timeout=30) == 1  # type: ignore[union-attr]
    assert "setup failed: setup: RuntimeError: no tables today" in up.output.read_text()
    assert up.leftovers() == []


def test_a_missing_value_is_a_clear_error(tmp_path: Path) -> None:
    up = Up(tmp_path)
    toys = Toys(tmp_path / "toys").add("chat", CHAT)
    toys.resources["ChatFunction"]["Properties"]["Environment"]["Variables"] = {
        "QUEUE": {"Fn::GetAtt": ["Queue", "Arn"]}
    }
    toys.write()
    assert up.start().process.wait(timeout=30) == 1  # type: ignore[union-attr]
    assert "only AWS knows the value of QUEUE (needs Queue.Arn)" in up.output.read_text()


def test_the_admin_key_is_remembered(up: Up) -> None:
    up.start().ready()
    up.end()
    handler = up.folder / "toys" / "functions" / "setup" / "handler.py"
    handler.write_text(SETUP.replace("KEY", "None"))
    assert up.start().ready()["admin_key"] == "lam_toy"


def test_an_embedded_service_that_ends_comes_back_on_its_port(up: Up) -> None:
    named = {key: NAMED[key] for key in ("POSTGRES_DSN", "OLLAMA_HOST")}
    before = up.start(env=named).ready()
    (up.data / "hold-mongo").touch()
    os.kill(before["pids"]["mongo"], signal.SIGKILL)
    eventually(lambda: "stays down while hold-mongo exists" in up.output.read_text())
    assert up.content()["pids"]["mongo"] == before["pids"]["mongo"]
    (up.data / "hold-mongo").unlink()
    eventually(lambda: up.content()["pids"]["mongo"] != before["pids"]["mongo"])
    after = up.content()
    assert after["mongo_uri"] == before["mongo_uri"]
    assert not gone(after["pids"]["mongo"])
    assert after["pids"]["functions"] == before["pids"]["functions"]  # nothing else restarted
