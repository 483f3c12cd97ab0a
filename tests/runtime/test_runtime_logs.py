"""Log lines of lambda_stream, in each format and on the telemetry channel."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.runtime.environment import Start
from tests.runtime.process import FUNCTIONS, WRAPPER, runtime_environment
from tests.runtime.strict_api import StrictRuntimeAPI


def test_text_lines_carry_level_time_and_request_id(start_runtime: Start) -> None:
    environment = start_runtime("logging_sample.handler")
    call = environment.api.invoke({}).wait().wait_closed()
    environment.process.wait_for("the handler's own")
    first = next(line for line in environment.process.lines if "two" in line)
    level, instant, request_id, message = first.split("\t")
    assert (level, request_id, message) == ("[WARNING]", call.request_id, "two")
    assert instant.endswith("Z")
    assert len(instant) == 24
    assert "sold 3" not in environment.process.output


def test_json_lines_carry_the_documented_fields(start_runtime: Start) -> None:
    environment = start_runtime(
        "logging_sample.handler", AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="INFO"
    )
    call = environment.api.invoke({}).wait().wait_closed()
    environment.process.wait_for("the handler's own")
    lines = [line for line in environment.process.lines if line.startswith("{")]
    sold, two, failed, own = [json.loads(line) for line in lines]
    assert (sold["message"], sold["level"], sold["order"]) == ("sold 3", "INFO", "o-1")
    assert (sold["requestId"], sold["logger"]) == (call.request_id, "shop")
    assert two["message"] == "two\nlines"
    assert (failed["errorType"], failed["errorMessage"]) == ("ValueError", "inner")
    assert (own["errorType"], own["level"]) == ("LookupError", "ERROR")


def test_a_level_of_error_hides_warnings(start_runtime: Start) -> None:
    environment = start_runtime("logging_sample.handler", AWS_LAMBDA_LOG_LEVEL="ERROR")
    environment.api.invoke({}).wait().wait_closed()
    environment.process.wait_for("the handler's own")
    assert "two" not in environment.process.output


def test_the_telemetry_channel_gets_framed_records(tmp_path: Path) -> None:
    log = tmp_path / "telemetry"
    with closing(StrictRuntimeAPI()) as api, log.open("wb") as sink:
        environment = runtime_environment(
            "logging_sample.handler",
            AWS_LAMBDA_RUNTIME_API=api.address,
            AWS_LAMBDA_LOG_FORMAT="JSON",
            _LAMBDA_TELEMETRY_LOG_FD=str(sink.fileno()),
        )
        process = subprocess.Popen(
            [WRAPPER, sys.executable], env=environment, cwd=FUNCTIONS,
            pass_fds=[sink.fileno()], stdout=subprocess.DEVNULL,
        )  # fmt: skip
        api.invoke({}).wait().wait_closed()
        process.terminate()
        process.wait(10)
    data, records = log.read_bytes(), []
    while data:
        kind, size, at_us = struct.unpack(">IIQ", data[:16])
        records.append((kind, json.loads(data[16 : 16 + size])))
        assert abs(at_us / 1e6 - os.stat(log).st_mtime) < 60
        data = data[16 + size :]
    assert [kind for kind, _ in records] == [0xA55A0012, 0xA55A0016, 0xA55A0016]
    assert records[0][1]["message"] == "two\nlines"


def test_paths_of_the_task_root_and_its_pth_files_are_importable(
    start_runtime: Start, tmp_path: Path
) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "from_pth.py").write_text("VALUE = 5\n")
    (tmp_path / "more.pth").write_text("extra\n")
    source = "import sys\nimport from_pth\ndef h(e, c): return [from_pth.VALUE, sys.path[0]]\n"
    (tmp_path / "own.py").write_text(source)
    api = start_runtime("own.h", LAMBDA_TASK_ROOT=str(tmp_path)).api
    assert api.invoke({}).wait().json == [5, str(tmp_path)]
