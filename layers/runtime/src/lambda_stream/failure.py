"""An error as Lambda wants to be told: a type, a message and a stack, in JSON and in headers."""

from __future__ import annotations

import binascii
import json
import os
import re
import traceback
from dataclasses import dataclass

_MAX_TRAILER_JSON_BYTES = 16 * 1024
_MAX_XRAY_BYTES = 8 * 1024
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong; `stack` holds formatted frames, the outermost first."""

    error_type: str
    message: str
    stack: tuple[str, ...] = ()
    frames: tuple[tuple[str, int, str], ...] = ()

    def to_json(self, request_id: str = "") -> bytes:
        """The body of an /error request."""
        return json.dumps(
            {
                "errorMessage": self.message,
                "errorType": self.error_type,
                "requestId": request_id,
                "stackTrace": list(self.stack),
            }
        ).encode()

    def trailers(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The two trailer fields that end a stream in an error."""
        stack = list(self.stack)
        while True:
            document = {
                "errorType": self.error_type,
                "errorMessage": self.message[:4096],
                "stackTrace": stack,
            }
            encoded = json.dumps(document).encode()
            if len(encoded) <= _MAX_TRAILER_JSON_BYTES or not stack:
                break
            del stack[0]  # the innermost frames say most
        body = binascii.b2a_base64(encoded, newline=False).decode("ascii")
        return (
            ("Lambda-Runtime-Function-Error-Type", self.qualified_type),
            ("Lambda-Runtime-Function-Error-Body", body),
        )

    @property
    def qualified_type(self) -> str:
        """The type with a category before a dot, in ASCII letters and digits only."""
        if re.fullmatch(r"[A-Z][A-Za-z]*\.[A-Za-z0-9]+", self.error_type):
            return self.error_type
        return "Runtime." + (re.sub("[^A-Za-z0-9]", "", self.error_type) or "Unknown")

    def xray_cause(self) -> str:
        """The cause for X-Ray as header text; empty when it would be too long."""
        frames = [{"label": label, "path": path, "line": line} for path, line, label in self.frames]
        cause = {
            "working_directory": os.getcwd(),
            "exceptions": [{"message": self.message, "type": self.error_type, "stack": frames}],
            "paths": sorted({path for path, _, _ in self.frames}),
        }
        text = json.dumps(cause)
        return text if len(text) <= _MAX_XRAY_BYTES else ""


class RuntimeFault(Exception):
    """An error that the runtime itself found, with the type Lambda knows it by."""

    def __init__(self, error_type: str, message: str, stack: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.stack = stack


def failure_from(error: BaseException) -> Failure:
    """The failure behind an exception, without the runtime's own outer frames."""
    if isinstance(error, RuntimeFault):
        return Failure(error.error_type, str(error), error.stack)
    frames = traceback.extract_tb(error.__traceback__)
    while frames and os.path.abspath(frames[0].filename).startswith(_OWN_FOLDER):
        del frames[0]
    try:
        message = str(error)
    except Exception:  # an author's __str__ may itself fail; the type still tells something
        message = ""
    return Failure(
        type(error).__name__,
        message,
        tuple(traceback.format_list(frames)),
        tuple((frame.filename, frame.lineno or 0, frame.name) for frame in frames),
    )
