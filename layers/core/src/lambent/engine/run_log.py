"""Keeps what an author says with `step.log`, with the next thing that goes on record.

No write is made for a line: the lines said since the last record go into the next one (a step's
document), or with the settle onto the run. That is also what makes them silent on replay: code that
has a record behind it is not run again as new, and for lines that no record follows the same settle
keeps how far each branch had come. Lines of a slice that dies before either are said again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from lambent.engine.branch import CURRENT, Branch, enclosing
from lambent.mongo import Document
from lambent.telemetry import redact

if TYPE_CHECKING:
    from lambent.engine.context import RunContext

MOST_LINES: Final = 100  # of one document
MOST_OF_RUN: Final = 2_000
_MOST_MARKS: Final = 1000
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


class Said:
    """How far each branch had come with its lines, for those that no record lies behind.

    A line before a record that the code has yet to ask for was said when the record was made. The
    others are told by a mark for each branch: the place of its last line, as the number of steps
    that it had entered and of lines since. A settle keeps the marks; a crash repeats some lines,
    and so does a map of more than a thousand branches that log at their ends.
    """

    def __init__(self, kept: Iterable[tuple[str, int, int]] | None, *, epoch: int) -> None:
        self.epoch = epoch
        self._marks: dict[str, tuple[int, int]] = {}
        self._inside: dict[str, set[str]] = {}
        for path, steps, lines in kept or ():
            self._mark(path, (steps, lines))

    def is_new(self, branch: Branch) -> bool:
        """Whether the line that the branch is about to log was not logged before."""
        branch.lines += 1
        place = (branch.entered, branch.lines)
        if place <= self._marks.get(branch.path, (0, 0)):
            return False
        self._mark(branch.path, place)
        return True

    def _mark(self, path: str, place: tuple[int, int]) -> None:
        self._marks[path] = place
        for around in enclosing(path):
            self._inside.setdefault(around, set()).add(path)

    def recorded(self, path: str) -> None:
        """A record of this branch lies behind all its lines now, and those of branches in it."""
        if not self._marks:
            return
        self._marks.pop(path, None)
        for one in self._inside.pop(path, ()):
            self._marks.pop(one, None)

    def document(self) -> list[list[Any]]:
        """The marks as a settle keeps them."""
        marks = list(self._marks.items())[-_MOST_MARKS:]
        return [[path, *place] for path, place in marks]


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
        context, branch = self._context, CURRENT.get()
        # What a step's own body says is new by itself: a replay does not run it.
        if branch.busy is None and (context.replaying or not context.said.is_new(branch)):
            return
        run_id = context.run["_id"]
        self._logger.log(level, message, extra={"run": run_id, "fields": dict(fields)})
        line: Document = {
            "at": context.clock.now(),
            "level": logging.getLevelName(level).lower(),
            "text": redact(str(message))[:_LONGEST_TEXT],
            "step": branch.busy or branch.path or None,
        }
        if fields:
            kept = list(fields.items())[:_MOST_FIELDS]
            line["fields"] = {str(k): redact(str(v))[:_LONGEST_FIELD] for k, v in kept}
        context.journal.lines.say(line)
