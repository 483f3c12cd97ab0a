"""What `./local/up` says and keeps when it is pointed at services and keys of a person's own."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local.emulator.logs import FunctionLog, Level
from local.screen import Screen
from tests.functions.test_up_stack import NAMED, SETUP, Up, eventually

READY = """
import json
def handler(event, context):
    failed = {"status": "failed", "ms": 1.0, "detail": "The model server does not answer."}
    services = {"postgres": {"status": "ok"}, "models": failed}
    return {"statusCode": 503, "body": json.dumps({"status": "failed", "services": services})}
"""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    running.toys()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.end()
    eventually(lambda: not running.leftovers())


def setup_answers(up: Up, key: str) -> None:
    handler = up.folder / "toys" / "functions" / "setup" / "handler.py"
    handler.write_text(SETUP.replace("KEY", key))


def test_each_named_database_has_its_own_admin_key(up: Up) -> None:
    other = NAMED | {"POSTGRES_DSN": "postgresql://other/db"}
    for env, made in ((NAMED, "'lam_one'"), (other, "'lam_two'")):
        setup_answers(up, made)
        up.start(env=env).ready()
        up.end()
    setup_answers(up, "None")
    assert up.start(env=NAMED).ready()["admin_key"] == "lam_one"


def test_a_key_that_is_not_known_is_asked_for(up: Up) -> None:
    setup_answers(up, "None")
    assert up.start().ready()["admin_key"] is None
    eventually(lambda: "Ctrl-C" in up.output.read_text())
    assert '-H "Authorization: Bearer $ADMIN_KEY"' in up.output.read_text()
    assert "put it into $ADMIN_KEY" in up.output.read_text()


def test_a_named_service_that_does_not_answer_is_told_at_the_start(up: Up) -> None:
    (up.folder / "toys" / "functions" / "gateway" / "handler.py").write_text(READY)
    up.start().ready()
    eventually(lambda: "OLLAMA_HOST does not work yet" in up.output.read_text())
    assert "POSTGRES_DSN does not work" not in up.output.read_text()


def test_a_port_that_is_taken_is_told_before_anything_starts(up: Up) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert up.start("--port", str(port)).process.wait(timeout=30) == 1  # type: ignore[union-attr]
    assert f"port {port} cannot be used: it is taken; choose another" in up.output.read_text()
    assert not (up.data / "logs").exists()


def test_a_folder_that_cannot_be_used_is_a_clear_error(up: Up) -> None:
    up.data.write_text("a file")
    assert up.start().process.wait(timeout=30) == 1  # type: ignore[union-attr]
    assert up.output.read_text() == f"cannot use {up.data}: File exists\n"


def test_a_reader_that_leaves_does_not_end_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        screen = Screen(verbose=False)
        os.close(reader)
        for _ in range(2):
            screen.note("nobody reads this")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_log_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "chat.log").symlink_to("/dev/full")
    shown: list[str] = []
    log = FunctionLog("chat", tmp_path, listener=lambda _name, text, _level: shown.append(text))
    log.line("START")
    log.line("END")
    log.close()
    assert shown == ["START", "END"]


def test_a_trace_is_shown_line_by_line() -> None:
    out = StringIO()
    screen = Screen(verbose=False, console=Console(file=out, width=200))
    screen.function_line("chat", "[ERROR] ValueError: no\rTraceback:\r  File x", Level.ERROR)
    screen.function_line("chat", "[ERROR] ConfigError: a is no number\rTraceback:", Level.ERROR)
    assert [line.partition("│ ")[2] for line in out.getvalue().splitlines()] == [
        "[ERROR] ValueError: no", "Traceback:", "  File x", "[ERROR] ConfigError: a is no number",
    ]  # fmt: skip


def test_a_structured_line_is_shown_for_a_person() -> None:
    out = StringIO()
    screen = Screen(verbose=False, console=Console(file=out, width=200))
    record = {"level": "WARNING", "location": "_log:1", "message": "Turned away", "cause": "no"}
    screen.function_line("chat", json.dumps(record), Level.WARNING)
    screen.function_line("chat", '{"no": "message"}', Level.WARNING)
    assert [line.partition("│ ")[2] for line in out.getvalue().splitlines()] == [
        "[WARNING] Turned away cause=no", '{"no": "message"}',
    ]  # fmt: skip
