"""Logs and EMF metrics, through Powertools, without ever printing a secret."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

# Keys of ours, bearer tokens, and credentials inside connection addresses.
_SECRETS = re.compile(
    r"lam_[0-9A-Za-z]+_[0-9A-Za-z]+|(?<=Bearer )[^\s\"']+|(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)"
    r"|(?<=password=)[^\s\"']+"
)


def redact(text: str) -> str:
    """The text with API keys, bearer tokens and passwords of addresses replaced by `***`."""
    return _SECRETS.sub("***", text)


class _RedactingFormatter(LambdaPowertoolsFormatter):
    """Powertools' JSON, redacted as a whole: exceptions and extra fields included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


@lru_cache(maxsize=1)
def logger() -> Logger:
    """The platform's logger; its level is set by `set_level` once settings are read."""
    # A level is given: Powertools itself reads LOG_LEVEL, and an empty one is an error to it.
    return Logger(service="lambent", level="INFO", logger_formatter=_RedactingFormatter())


def set_level(level: str) -> None:
    """Let lines of `level` and above through."""
    logger().setLevel(level)


def log_fields(**fields: Any) -> dict[str, Any]:
    """Extra fields for a log line, in the form that `logging` takes."""
    return {"extra": fields}
