"""What the first invocation says of a deployment that cannot work: one line, with what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = {"MONGO_URI": "mongodb://u:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=200",
           "POSTGRES_DSN": "postgresql://u:hunter2@127.0.0.1:1/none"}  # fmt: skip
# Runs a handler once as Lambda would, and prints how it ended.
INVOKE = """
import asyncio, importlib, inspect, json, sys
class Context:
    aws_request_id = "first"
    def get_remaining_time_in_millis(self): return 6_000
def ended(error): return json.dumps([type(error).__name__, str(error)])
async def asked(asgi, event):
    import httpx
    transport = httpx.ASGITransport(app=asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://chat") as client:
        body = event["body"].encode()
        await client.post(event["rawPath"], headers=event["headers"], content=body)
try:
    handler = importlib.import_module("handler").handler
    event = json.loads(sys.argv[1])
    if inspect.iscoroutinefunction(handler):
        asyncio.run(handler(event, Context()))
    elif sys.argv[2] == "call" and hasattr(handler, "asgi"):
        asyncio.run(asked(handler.asgi, event))
    elif sys.argv[2] == "call":
        handler(event, Context())
    print(json.dumps(["", ""]))
except Exception as error:
    print(ended(error))
"""
EVENTS = {"step": {"runs": ["01J"]}, "deliver": {"events": ["e"]}, "poller": {}, "setup": {}}
# With a key that could be one: whether it is, only the database knows.
KEY = "lam_a_" + "k" * 43
REQUESTS = {
    "gateway": (ROOT / "tests/events/gateway_keys.json").read_text().replace("KEY", KEY),
    "chat": (ROOT / "tests/events/chat_stream.json").read_text().replace("KEY", KEY),
}


def first_invocation(
    function: str,
    environ: dict[str, str],
    *,
    broken: str = "",
    event: str = "",
    python: str = sys.executable,
    core: str = str(ROOT / "layers/core/src"),
) -> tuple[str, str]:
    """The error's message, and the log. With `event` a function that answers HTTP is asked, too."""
    path = [str(ROOT / "layers/runtime/src"), core, str(ROOT / "layers/agents/src")]
    if broken:
        path.insert(0, broken)
    done = subprocess.run(
        [python, "-c", INVOKE, event or json.dumps(EVENTS.get(function, {})),
         "call" if event or function == "setup" else "import"],
        cwd=ROOT / "functions" / function, capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path), **environ},
    )  # fmt: skip
    *log, last = done.stdout.splitlines()
    said: list[Any] = json.loads(last)
    text = "\n".join(log) + done.stderr
    assert "hunter2" not in text + said[1]
    return str(said[1]), text


def assert_one_line(said: str, log: str, *parts: str) -> None:
    for part in parts:
        assert part in said
        assert part in log
    assert "\n" not in said


@pytest.mark.parametrize("function", ["chat", "gateway", "step", "deliver", "poller", "setup"])
def test_a_broken_secret_is_named_with_what_to_change(function: str) -> None:
    environ = {**NOWHERE, "MONGO_URI": "hunter2", "OLLAMA_MAX_INFLIGHT": "many"}
    said, log = first_invocation(function, environ)
    assert_one_line(said, log, "MONGO_URI must start", "OLLAMA_MAX_INFLIGHT", "stack's parameters")


@pytest.mark.parametrize("function", ["step", "deliver", "poller", "setup"])
def test_a_store_that_is_not_reached_is_named_with_what_to_check(function: str) -> None:
    """Step and poller do not fail for it: what is due is found again when the store is back."""
    said, log = first_invocation(function, NOWHERE)
    store = "Postgres" if function == "setup" else "MongoDB"
    named = [line for line in log.splitlines() if f"{store} does not answer" in line]
    assert "Check its address, the network and the credentials" in named[0]
    assert "127.0.0.1" in named[0]
    if function in ("deliver", "setup"):
        assert_one_line(said, log, f"{store} does not answer. Check its address")


@pytest.mark.parametrize("function", ["chat", "gateway"])
def test_so_it_is_where_a_request_has_to_ask_it(function: str) -> None:
    _, log = first_invocation(function, NOWHERE, event=REQUESTS[function])
    named = [line for line in log.splitlines() if "Postgres does not answer" in line]
    assert "Check its address, the network and the credentials" in named[0]
    assert "127.0.0.1" in named[0]


ASKS = {
    "chat": "The database lacks what this version needs",
    "gateway": "The database lacks what this version needs",
    "step": "MongoDB lacks the indexes that this version needs (of runs in the database",
    "deliver": "MongoDB lacks the indexes that this version needs (of events in the database",
    "poller": "MongoDB lacks the indexes that this version needs (of runs in the database",
}


def test_stores_without_tables_and_indexes_are_named_with_what_to_invoke_until_setup_ran(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str
) -> None:
    environ = {"POSTGRES_DSN": postgres_dsn, "MONGO_URI": mongo_uri, "MONGO_DB_NAME": mongo_db_name}

    def said_by(function: str) -> list[str]:
        _, log = first_invocation(function, environ, event=REQUESTS.get(function, ""))
        return [line for line in log.splitlines() if ASKS[function] in line]

    for function in ASKS:
        assert "Invoke the setup function, or deploy again" in said_by(function)[0]
    assert first_invocation("setup", environ)[0] == ""
    assert {function: said_by(function) for function in ASKS} == {one: [] for one in ASKS}


@pytest.mark.parametrize("function", ["chat", "gateway"])
def test_a_layer_for_another_processor_is_recognised(function: str, tmp_path: Path) -> None:
    (tmp_path / "pydantic_core").mkdir()
    (tmp_path / "pydantic_core/__init__.py").write_text(
        "from pydantic_core import _pydantic_core\n"
    )
    said, log = first_invocation(function, NOWHERE, broken=str(tmp_path))
    assert_one_line(said, log, "another processor", "the same Architecture")


@pytest.mark.parametrize("function", ["step", "deliver", "poller", "setup"])
def test_so_is_one_of_a_function_that_streams_nothing(function: str, tmp_path: Path) -> None:
    (tmp_path / "bson").mkdir()
    (tmp_path / "bson/__init__.py").write_text("raise ImportError('wrong ELF class')\n")
    (tmp_path / "psycopg.py").write_text("raise ImportError('wrong ELF class')\n")
    said, log = first_invocation(function, NOWHERE, broken=str(tmp_path))
    assert_one_line(said, log, "wrong ELF class", "the same Architecture")


@pytest.mark.parametrize("function", ["chat", "gateway", "step", "deliver", "poller", "setup"])
def test_so_is_one_whose_drivers_do_without_their_compiled_files(
    function: str, tmp_path: Path
) -> None:
    """What the core layer's build wrote down is compared before anything else is loaded."""
    core = shutil.copytree(ROOT / "layers/core/src", tmp_path / "core")
    (core / "lambent/built-for").write_text("riscv64\n")
    said, log = first_invocation(function, NOWHERE, core=str(core))
    assert_one_line(said, log, "another processor (riscv64; this one is", "the same Architecture")
