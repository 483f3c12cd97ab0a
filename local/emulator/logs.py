"""Keeps each function's log the way CloudWatch would show it, one file a function."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TextIO

_ROTATE_BYTES = 20 * 1024 * 1024
_MARKS = ("[ERROR]", "[CRITICAL]", "Traceback (most recent call last)", "Error:")


class Level(IntEnum):
    """How loudly a line should be shown to a person."""

    INFO = 20
    WARNING = 30
    ERROR = 40


Listener = Callable[[str, str, Level], None]
"""Called with the function's short name, the line without its end, and the level."""


class FunctionLog:
    """Appends lines to `<folder>/<function>.log` and tells the listener."""

    def __init__(self, name: str, folder: Path, *, listener: Listener | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.log"
        if path.exists() and path.stat().st_size > _ROTATE_BYTES:
            path.replace(path.with_suffix(".log.1"))
        self._name = name
        self._listener = listener
        self._file: TextIO | None = path.open("a", encoding="utf-8", buffering=1)

    def line(self, text: str, level: Level = Level.INFO) -> None:
        """One line of the platform: START, END, REPORT, errors."""
        if self._file is not None:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
            with contextlib.suppress(OSError):  # a full disk must not end what the line is about
                self._file.write(f"{now}Z {self._name} | {text}\n")
        if self._listener is not None:
            self._listener(self._name, text, level)

    def output(self, text: str) -> None:
        """One line that the function itself wrote to stdout or stderr."""
        self.line(text, _level_of(text))

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class LineSplitter:
    """Cuts a byte stream into text lines; an endless line is cut as CloudWatch would."""

    _LIMIT_BYTES = 256 * 1024

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) > self._LIMIT_BYTES:
            self.close()

    def close(self) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        # A function may write "\r" where it wants one record over several lines.
        text = line.decode("utf-8", "replace").rstrip("\r")
        self._sink(text)


def report(
    *,
    request_id: str,
    duration_ms: float,
    memory_mb: int,
    used_mb: int | None,
    init_ms: float | None,
) -> str:
    """CloudWatch's REPORT line. AWS bills the start-up too, in whole milliseconds."""
    billed_ms = int(-(-(duration_ms + (init_ms or 0.0)) // 1))
    parts = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration_ms:.2f} ms",
        f"Billed Duration: {billed_ms} ms",
        f"Memory Size: {memory_mb} MB",
    ]
    if used_mb is not None:
        parts.append(f"Max Memory Used: {used_mb} MB")
    if init_ms is not None:
        parts.append(f"Init Duration: {init_ms:.2f} ms")
    return "\t".join(parts)


def _level_of(text: str) -> Level:
    if text.startswith("{"):
        return _json_level(text)
    if any(mark in text for mark in _MARKS):
        return Level.ERROR
    return Level.WARNING if "[WARNING]" in text else Level.INFO


def _json_level(text: str) -> Level:
    try:
        record = json.loads(text)
    except ValueError:
        return Level.INFO
    match str(record.get("level", record.get("log_level", ""))).upper():
        case "ERROR" | "CRITICAL" | "FATAL":
            return Level.ERROR
        case "WARN" | "WARNING":
            return Level.WARNING
        case _:
            return Level.INFO
