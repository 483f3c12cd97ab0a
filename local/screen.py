"""What a person sees of the stack: progress, calm log lines, the ready page."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from local.emulator.logs import Level

_COLOURS = ("cyan", "magenta", "green", "blue", "yellow", "bright_cyan")
_SLOW_S = 1.0


class _Output:
    """Standard output whose reader may leave (`up | head`, a closed window): the stack goes on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with self._unread():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._unread():
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # what is still held would fail once more at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())


class Screen:
    """Writes to the terminal. Without `verbose` only warnings and errors of functions show."""

    def __init__(self, *, verbose: bool, console: Console | None = None) -> None:
        output = cast(TextIO, _Output(sys.stdout))
        self._console = console or Console(file=output, highlight=False, soft_wrap=True)
        self._verbose = verbose
        self._colours: dict[str, str] = {}
        self._steps: dict[str, float] = {}

    def function_line(self, function: str, text: str, level: Level) -> None:
        """A line of a function's log."""
        if not self._verbose and level < Level.WARNING:
            return
        colour = self._colours.setdefault(function, _COLOURS[len(self._colours) % len(_COLOURS)])
        style = {Level.WARNING: "yellow", Level.ERROR: "red"}.get(level, "")
        for part in _readable(text):
            line = Text.assemble((f"{function:>8} ", colour), ("│ ", "dim"), (part, style))
            self._console.print(line)

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def warn(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))

    def fail(self, text: str) -> None:
        self._console.print(Text(text, style="bold red"))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something that may take a while."""
        self._steps[name] = time.monotonic()
        try:
            yield
        finally:
            del self._steps[name]

    @asynccontextmanager
    async def progress(self) -> AsyncIterator[None]:
        """Show the open steps once they take longer than a second."""
        task = asyncio.create_task(self._show_steps())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _show_steps(self) -> None:
        await asyncio.sleep(_SLOW_S)
        if not self._console.is_terminal:
            while True:
                if self._steps:
                    self.note(f"{self._open_steps()} ...")
                await asyncio.sleep(2.0)
        with self._console.status("") as status:
            while True:
                status.update(escape(self._open_steps()))
                await asyncio.sleep(0.1)

    def _open_steps(self) -> str:
        now_s = time.monotonic()
        return ", ".join(f"{name} ({now_s - at_s:.0f} s)" for name, at_s in self._steps.items())

    def ready(self, *, url: str, facts: Mapping[str, str], curl: str, took_s: float) -> None:
        """The page that a newcomer reads first."""
        out = self._console
        out.print()
        out.print(f"[bold green]Lambent is ready[/] [dim]in {took_s:.1f} s[/]  [bold]{url}[/]")
        for name, value in facts.items():
            out.print(Text.assemble((f"  {name:<9} ", "dim"), value))
        out.print("\nTalk to it from another terminal:\n")
        out.print(Text(curl, style="bold"))
        out.print("\n[dim]Ctrl-C stops everything; the data stays.[/]\n")


def _readable(text: str) -> list[str]:
    """What a person needs of a line: the log file has all of it."""
    # Lambda's runtimes write an error and its trace as one event, parted by carriage returns.
    first, *trace = text.split("\r")
    if any(name in first for name in _SAID_IN_FULL):
        return [first]
    if trace or not text.startswith("{"):
        return [first, *trace]
    try:
        record = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(record, dict) or not isinstance(record.get("message"), str):
        return [text]
    level, trace = record.get("level", "INFO"), str(record.get("exception") or "").splitlines()
    said = [f"{key}={value}" for key, value in record.items() if key not in _UNSAID and value]
    return [" ".join([f"[{level}]", record["message"], *said]), *trace]


# These name what to change or what is away; where that was noticed is of no help.
_SAID_IN_FULL = ("ConfigError: ", "StoreUnavailable: ")
# Of a structured line: what stands elsewhere on the screen, or is of use to a machine alone.
_UNSAID = frozenset({
    "level", "message", "exception", "exception_name", "stack_trace", "location", "timestamp",
    "service", "xray_trace_id", "cold_start", "function_name", "function_memory_size",
    "function_arn", "function_request_id", "logger", "requestId",
})  # fmt: skip
