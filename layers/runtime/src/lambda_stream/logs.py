"""Log lines as Lambda wants them: text or JSON, to stdout or framed to the telemetry channel."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, TextIO

from lambda_stream.failure import Failure

_TEXT_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
_FRAME_TEXT, _FRAME_JSON = 0xA55A0003, 0xA55A0002
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "aws_request_id",
    "tenant_id",
}
_NO_BREAK_SPACE = "\u00a0"


class Logs:
    """The root logger's handler and the runtime's own voice, for the invocation at hand."""

    def __init__(self, *, as_json: bool, telemetry_fd: int | None) -> None:
        self.as_json = as_json
        self._fd = telemetry_fd
        self._request_id = ""
        self._tenant_id = ""

    @classmethod
    def install(cls) -> Logs:
        """Set up the root logger from AWS_LAMBDA_LOG_FORMAT, _LEVEL and the telemetry channel."""
        as_json = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
        level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
        fd = os.environ.pop("_LAMBDA_TELEMETRY_LOG_FD", "")
        logs = cls(as_json=as_json, telemetry_fd=int(fd) if fd.isdigit() else None)
        for stream in (sys.stdout, sys.stderr):
            _write_through(stream)
        root = logging.getLogger()
        root.addHandler(_Handler(logs))
        level = {"TRACE": "DEBUG", "FATAL": "CRITICAL", "WARN": "WARNING"}.get(level, level)
        if level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            root.setLevel(level)
        return logs

    def begin(self, request_id: str, tenant_id: str) -> None:
        """Mark all lines from now on with this invocation."""
        self._request_id, self._tenant_id = request_id, tenant_id

    def mark(self, record: logging.LogRecord) -> None:
        record.aws_request_id = self._request_id
        record.tenant_id = self._tenant_id or None

    def write(self, text: str, *, level: int = logging.NOTSET) -> None:
        """One record; on the telemetry channel it keeps its line breaks as one event."""
        if self._fd is None:
            sys.stdout.write(text)
            return
        data = text.encode(errors="backslashreplace")
        kind = (_FRAME_JSON if self.as_json else _FRAME_TEXT) + _level_bits(level)
        head = kind.to_bytes(4, "big") + len(data).to_bytes(4, "big")
        frame = head + (time.time_ns() // 1000).to_bytes(8, "big") + data
        while frame:
            frame = frame[os.write(self._fd, frame) :]

    def warning(self, text: str) -> None:
        logging.getLogger("lambda_stream").warning("%s", text)

    def failure(self, failure: Failure, request_id: str) -> None:
        """An error that ended an invocation or the start, as AWS's own runtime writes it."""
        if self.as_json:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            document = {"timestamp": now, "level": "ERROR"} | json.loads(
                failure.to_json(request_id)
            )
            self.write(json.dumps(document, ensure_ascii=False) + "\n", level=logging.ERROR)
            return
        lines = [f"[ERROR] {failure.error_type}: {failure.message}".rstrip(": ")]
        if failure.stack:
            lines.append("Traceback (most recent call last):")
        for entry in failure.stack:
            for line in entry.splitlines():
                text = line.lstrip(" ")
                lines.append(_NO_BREAK_SPACE * (len(line) - len(text)) + text)
        # A carriage return keeps the lines one event in CloudWatch; a frame does by itself.
        end = "\n" if self._fd is not None else "\r"
        text = end.join(lines)
        self.write(text if self._fd is not None else text + "\n", level=logging.ERROR)


class _Handler(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs
        self.setFormatter(_JSONFormatter() if logs.as_json else _text_formatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._logs.mark(record)
            self._logs.write(self.format(record), level=record.levelno)
        except Exception:  # logging must never break what it reports on
            self.handleError(record)


class _JSONFormatter(logging.Formatter):
    """The documented fields, then whatever the author gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        structured = isinstance(record.msg, dict) and not record.args
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        document: dict[str, Any] = {
            "timestamp": now,
            "level": record.levelname,
            "message": record.msg if structured else record.getMessage(),
            "logger": record.name,
            "requestId": getattr(record, "aws_request_id", None),
            "tenantId": getattr(record, "tenant_id", None),
        }
        if record.exc_info and record.exc_info[0] is not None:
            import traceback

            document["stackTrace"] = traceback.format_tb(record.exc_info[2])
            document["errorType"] = record.exc_info[0].__name__
            document["errorMessage"] = str(record.exc_info[1])
            document["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        for name, value in vars(record).items():
            if name not in _STANDARD_FIELDS:
                document.setdefault(name, value)
        kept = {name: value for name, value in document.items() if value is not None}
        return json.dumps(kept, ensure_ascii=False, default=str) + "\n"


def _text_formatter() -> logging.Formatter:
    formatter = logging.Formatter(_TEXT_FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def _level_bits(level: int) -> int:
    """The telemetry frame's severity: 4 a step from TRACE up, added to the type's last byte."""
    step = min(50, max(0, level)) // 10
    return 0 if step == 0 else (step + 1) * 4


def _write_through(stream: TextIO) -> None:
    """Lines must leave before the process is frozen."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(write_through=True, line_buffering=True, errors="backslashreplace")
