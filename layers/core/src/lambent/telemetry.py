"""Logs through Powertools: JSON lines that say whose they are, and never print a secret."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

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


# Whose work goes on: `request_id`, `run_id`, `step`. Of the task, since several runs share a loop.
_TRAIL: Final[ContextVar[Mapping[str, str]]] = ContextVar("trail", default=MappingProxyType({}))


@contextmanager
def correlated(**ids: str | None) -> Iterator[None]:
    """Every log line of this work, and of the tasks it begins, carries these ids too."""
    told = {key: value for key, value in ids.items() if value}
    token = _TRAIL.set({**_TRAIL.get(), **told})
    try:
        yield
    finally:
        _TRAIL.reset(token)


def trail() -> Mapping[str, str]:
    """The ids of the work that goes on."""
    return _TRAIL.get()


class _RedactingFormatter(LambdaPowertoolsFormatter):
    """Powertools' JSON, redacted as a whole: exceptions and extra fields included."""

    def format(self, record: logging.LogRecord) -> str:
        for key, value in _TRAIL.get().items():
            record.__dict__.setdefault(key, value)
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
