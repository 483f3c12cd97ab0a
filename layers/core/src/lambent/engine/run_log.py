"""Keeps what an author says with `step.log`, with the next thing that goes on record.

No write is made for a line: the lines said since the last record go into the next one (a step's
document, or the run's where it ends). That is also what makes them silent on replay: code that has
a record behind it is not run again as new. Lines of a slice that lets go before anything follows
them are dropped here, for the next slice says them again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from lambent.engine.branch import CURRENT
from lambent.mongo import Document
from lambent.telemetry import redact

if TYPE_CHECKING:
    from lambent.engine.context import RunContext

MOST_LINES: Final = 100  # of one document
MOST_OF_RUN: Final = 2_000
_LONGEST_TEXT: Final = 1_000
_LONGEST_FIELD: Final = 200
_MOST_FIELDS: Final = 10


class Lines:
    """The lines of one run that wait for a record; `said` counts those kept so far."""

    def __init__(self, said: int) -> None:
        self.said = said
        self._waiting: list[Document] = []

    def say(self, line: Document) -> None:
        """Keep the line, unless the run has said too much already; its last one says so."""
        if self.said > MOST_OF_RUN or len(self._waiting) > MOST_LINES:
            return
        if self.said == MOST_OF_RUN or len(self._waiting) == MOST_LINES:
            line = {**line, "text": "There is more, which is only in the function's log."}
        self.said += 1
        self._waiting.append(line)

    def take(self) -> list[Document]:
        """The lines for the record that is about to be written; whoever cannot write gives them
        back. Taken at once, or two branches would both record them."""
        taken, self._waiting = self._waiting, []
        return taken

    def give_back(self, lines: list[Document]) -> None:
        """They were not written after all."""
        self._waiting = [*lines, *self._waiting]


class ReplayAwareLog:
    """`step.log`: says things once, in the function's log and on the run's page."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._logger = logging.getLogger(f"lambent.workflows.{context.workflow.name}")

    def __call__(self, message: str, **fields: Any) -> None:
        self.info(message, **fields)

    def info(self, message: str, **fields: Any) -> None:
        self._say(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._say(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._say(logging.ERROR, message, fields)

    def _say(self, level: int, message: str, fields: Mapping[str, Any]) -> None:
        journal = self._context.journal
        if journal.replaying:
            return
        run_id = self._context.run["_id"]
        self._logger.log(level, message, extra={"run": run_id, "fields": dict(fields)})
        branch = CURRENT.get()
        line: Document = {
            "at": self._context.clock.now(),
            "level": logging.getLevelName(level).lower(),
            "text": redact(str(message))[:_LONGEST_TEXT],
            "step": branch.busy or branch.path or None,
        }
        if fields:
            kept = list(fields.items())[:_MOST_FIELDS]
            line["fields"] = {str(k): redact(str(v))[:_LONGEST_FIELD] for k, v in kept}
        journal.lines.say(line)
