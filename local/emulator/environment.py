"""One execution environment: a process, its Runtime API, and the invocation it works on."""

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum
from signal import SIGTERM
from typing import assert_never

from local.emulator.guardian import Guardian, kill_group
from local.emulator.logs import FunctionLog, Level, LineSplitter, report
from local.emulator.process import exit_words, peak_memory_mb, process_environment, spawn
from local.emulator.reply import Failure, Invocation
from local.emulator.runtime_api import RuntimeApi
from local.emulator.settings import EmulatorSettings
from local.emulator.template import Function, UrlMode
from local.emulator.wire import Server


class State(StrEnum):
    """STARTING → IDLE ⇄ BUSY → STOPPING → GONE; any state may fall to GONE at once."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"
    GONE = "gone"


class Environment:
    """Made by a pool. `on_change` is called after each change of state."""

    def __init__(
        self,
        function: Function,
        settings: EmulatorSettings,
        *,
        log: FunctionLog,
        guardian: Guardian,
        invoke_url: str,
        on_change: "Callable[[Environment], None]",
    ) -> None:
        self.function = function
        self.state = State.STARTING
        self.pid: int | None = None
        self.idle_since_s = time.monotonic()
        self.outdated = False
        self.init_failure: Failure | None = None
        self.crashed_in_init = False
        self.started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._log = log
        self._guardian = guardian
        self._invoke_url = invoke_url
        self._on_change = on_change
        self._api = RuntimeApi(function, self)
        self._server = Server(self._api)
        self._process: asyncio.subprocess.Process | None = None
        self._invocation: Invocation | None = None
        self._writer: Invocation | None = None  # whose output it is that comes through the pipe
        self._timer: asyncio.TimerHandle | None = None
        self._created_at_s = time.monotonic()
        self._init_ms: float | None = None
        self._timed_out = False
        self._life = asyncio.get_running_loop().create_task(self._live())

    # What the pool asks for.

    def assign(self, invocation: Invocation) -> None:
        """Give an idle environment its next invocation."""
        assert self.state is State.IDLE
        timeout_s = self.function.timeout_s
        invocation.started_at_s = time.monotonic()
        self._invocation = self._writer = invocation
        self._log.line(f"START RequestId: {invocation.request_id} Version: {self.function.version}")
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._time_out)
        self._enter(State.BUSY)
        self._api.deliver(invocation, deadline_ms=int((time.time() + timeout_s) * 1000))

    async def stop(self, reason: str = "spindown", *, drain: bool = False) -> None:
        """SIGTERM where an extension asks for it, then SIGKILL; returns when nothing is left.

        With `drain` a streamed answer has the time that the settings give it; a later stop
        without it cuts that short.
        """
        grace_s = self._settings.grace_s if self._api.has_extension else 0.0
        if drain and self.function.url is UrlMode.RESPONSE_STREAM:
            grace_s += self._settings.drain_s
        if self.state not in (State.STOPPING, State.GONE):
            self._enter(State.STOPPING)
            self._api.shutdown(reason, deadline_ms=int((time.time() + grace_s) * 1000))
            if grace_s and self.pid is not None:
                kill_group(self.pid, SIGTERM)
        if grace_s:
            await asyncio.wait({self._life}, timeout=grace_s)
        self._kill()
        await asyncio.wait({self._life})

    @property
    def drains(self) -> bool:
        """Busy, and able to end its work in order once it gets SIGTERM."""
        return self.state is State.BUSY and self._api.has_extension

    @property
    def alive(self) -> bool:
        return self.state not in (State.STOPPING, State.GONE)

    @property
    def answered_for_s(self) -> float | None:
        """How long ago its present invocation was answered, while the runtime has yet to ask for
        the next one; None where there is nothing answered."""
        if self.state is not State.BUSY or self._invocation is None:
            return None
        reply = self._invocation.reply
        return time.monotonic() - reply.ended_at_s if reply.ended else None

    # What the process tells through the Runtime API.

    def on_ready(self) -> None:
        match self.state:
            case State.STARTING:
                self._cancel_timer()
                self._init_ms = (time.monotonic() - self._created_at_s) * 1000
                self._become_idle()
            case State.BUSY:
                self._become_idle()
            case State.IDLE | State.STOPPING | State.GONE:
                pass
            case _:
                assert_never(self.state)

    def on_next(self) -> None:
        self._close_invocation()

    def on_lost(self) -> None:
        if self.state in (State.IDLE, State.BUSY):
            self._spawn_stop("failure")

    def on_init_error(self, failure: Failure) -> None:
        # The runtime has printed its error in full: for a person this would be a repetition.
        self._start_fails(failure, Level.INFO)

    def _start_fails(self, failure: Failure, level: Level) -> None:
        self.init_failure = failure
        self._log.line(
            f"INIT_REPORT Status: error\tError Type: {failure.error_type}\t{failure.message}",
            level,
        )

    # The process.

    async def _live(self) -> None:
        try:
            await self._run_process()
        except OSError as error:
            self.init_failure = Failure("Runtime.StartFailed", str(error))
            self._log.line(f"the process could not be started: {error}", Level.ERROR)
        finally:
            self._cancel_timer()
            await self._server.close()
            self._enter(State.GONE)

    async def _run_process(self) -> None:
        await self._server.start(self._settings.host)
        variables = process_environment(
            self.function,
            self._settings,
            runtime_api=f"{self._settings.host}:{self._server.port}",
            invoke_url=self._invoke_url,
        )
        process = await spawn(self.function, variables)
        self._process, self.pid = process, process.pid
        self._guardian.watch(process.pid)
        if self.state is State.STOPPING:
            self._kill()
        init_s = self._settings.init_s + self.function.timeout_s
        if self.state is State.STARTING:
            self._timer = asyncio.get_running_loop().call_later(init_s, self._init_timed_out)
        self._on_change(self)
        reader = asyncio.get_running_loop().create_task(self._read_output(process))
        code = await process.wait()
        self._guardian.forget(process.pid)
        kill_group(process.pid)  # what the function started and left behind
        await asyncio.wait({reader}, timeout=1.0)
        reader.cancel()
        self._process_ended(code)

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        splitter = LineSplitter(self._output)
        assert process.stdout is not None
        while data := await process.stdout.read(65536):
            splitter.feed(data)
        splitter.close()

    def _output(self, text: str) -> None:
        self._log.output(text)
        if self._writer is not None:
            self._writer.log_tail += text.encode() + b"\n"
            del self._writer.log_tail[:-4096]

    def _process_ended(self, code: int) -> None:
        words = exit_words(code)
        if self.state is State.STARTING:
            self.crashed_in_init = self.init_failure is None
            if self.crashed_in_init:
                self._log.line(f"INIT_REPORT Status: error\tError Type: {words}", Level.ERROR)
                self.init_failure = Failure("Runtime.ExitError", words)
        invocation = self._invocation
        if invocation is None:
            return
        ended_in_order = self.state is State.STOPPING and invocation.reply.ended
        if not (self._timed_out or ended_in_order):
            message = f"RequestId: {invocation.request_id} Error: {words}"
            level = Level.WARNING if self.state is State.STOPPING else Level.ERROR
            self._log.line(message, level)
            invocation.reply.end(Failure("Runtime.ExitError", message))
        self._close_invocation()

    # Steps of an invocation.

    def _time_out(self) -> None:
        invocation = self._invocation
        if invocation is None:
            return
        self._timed_out = True
        seconds = f"{self.function.timeout_s:.2f} seconds"
        message = f"RequestId: {invocation.request_id} Error: Task timed out after {seconds}"
        self._log.line(message, Level.ERROR)
        invocation.reply.end(Failure("Sandbox.Timedout", message))
        self._spawn_stop("timeout")

    def _init_timed_out(self) -> None:
        seconds = self._settings.init_s + self.function.timeout_s
        message = f"Start-up took more than {seconds:.2f} seconds"
        self._start_fails(Failure("Sandbox.Timedout", message), Level.ERROR)
        self._kill()

    def _close_invocation(self) -> None:
        """END and REPORT; the caller of a function that never answered gets an error."""
        invocation, self._invocation = self._invocation, None
        self._cancel_timer()
        if invocation is None:
            return
        if not invocation.reply.abandoned:
            message = f"RequestId: {invocation.request_id} Error: the runtime gave no answer"
            invocation.reply.end(Failure("Runtime.NoResponse", message))
        request_id = invocation.request_id
        self._log.line(f"END RequestId: {request_id}")
        self._log.line(
            report(
                request_id=request_id,
                duration_ms=(time.monotonic() - invocation.started_at_s) * 1000,
                memory_mb=self.function.memory_mb,
                used_mb=peak_memory_mb(self.pid) if self.pid else None,
                init_ms=self._init_ms,
            )
        )
        self._init_ms = None

    def _become_idle(self) -> None:
        self.idle_since_s = time.monotonic()
        if self.outdated:
            self._spawn_stop("spindown")
        else:
            self._enter(State.IDLE)

    def _spawn_stop(self, reason: str) -> None:
        self._stopping = asyncio.get_running_loop().create_task(self.stop(reason))

    def _kill(self) -> None:
        if self.pid is not None and self._process is not None and self._process.returncode is None:
            kill_group(self.pid)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _enter(self, state: State) -> None:
        if self.state is not State.GONE:
            self.state = state
            if not self.started.done() and state is not State.STARTING:
                self.started.set_result(state is State.IDLE)
            self._on_change(self)
