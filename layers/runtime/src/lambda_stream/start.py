"""From process start to the loop and to exit: the life of one execution environment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from lambda_stream.address import Address, call_blocking
from lambda_stream.extension import Extension
from lambda_stream.failure import Failure, RuntimeFault, failure_from
from lambda_stream.function import Function, lifetime
from lambda_stream.load import load_function, set_import_path
from lambda_stream.logs import Logs
from lambda_stream.runtime_api import RuntimeAPI, RuntimeAPIError
from lambda_stream.serve import Server, end_background
from lambda_stream.wire import ProtocolError

EXIT_INIT, EXIT_SNAPSHOT, EXIT_RESTORE = 1, 64, 65
# SIGTERM leaves about 300 ms: most for what is in flight, the rest for the application's shutdown.
DRAIN_S, SHUTDOWN_S = 0.12, 0.08
_INIT_ERROR = "/2018-06-01/runtime/init/error"
_RESTORE_ERROR = "/2018-06-01/runtime/restore/error"
_REPORT_TIMEOUT_S = 2.0


def main() -> int:
    """Run until Lambda ends the environment; returns the exit status."""
    logs = Logs.install()
    text = os.environ.get("AWS_LAMBDA_RUNTIME_API", "")
    if not text:
        print("lambda_stream: AWS_LAMBDA_RUNTIME_API is not set", file=sys.stderr)
        return EXIT_INIT
    try:
        address = Address.resolve(text)
    except (OSError, ValueError) as error:
        print(f"lambda_stream: AWS_LAMBDA_RUNTIME_API {text!r}: {error}", file=sys.stderr)
        return EXIT_INIT
    return Environment(address, logs).run()


class Environment:
    """One execution environment: start, an optional snapshot, the loop, shutdown."""

    def __init__(self, address: Address, logs: Logs) -> None:
        self._address = address
        self._logs = logs
        self._extension: Extension | None = None
        self._announced = False

    def run(self) -> int:
        try:
            set_import_path()
            name = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("_HANDLER", "")
            function = load_function(name)
        except BaseException as error:  # the edge: an author's module may raise anything
            return self._report(error, _INIT_ERROR, status=EXIT_INIT)
        self._extension = Extension.register(self._address)
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
            return self._serve(function, (_INIT_ERROR, EXIT_INIT))
        from lambda_stream import snapshot

        try:
            snapshot.before_snapshot()
            snapshot.wait_for_restore(self._address)
        except BaseException as error:
            fault = "Runtime.BeforeSnapshotError"
            return self._report(error, _INIT_ERROR, status=EXIT_SNAPSHOT, header=fault)
        try:
            snapshot.after_restore()
        except BaseException as error:
            fault = "Runtime.AfterRestoreError"
            return self._report(error, _RESTORE_ERROR, status=EXIT_RESTORE, header=fault)
        # The loop and the application's connections are made only now: none is in the snapshot.
        return self._serve(function, (_RESTORE_ERROR, EXIT_RESTORE))

    def _serve(self, function: Function, on_failure: tuple[str, int]) -> int:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(self._live(function, on_failure))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            if self._extension is not None:
                self._extension.close()

    async def _live(self, function: Function, on_failure: tuple[str, int]) -> int:
        from lambda_stream.lifespan import Lifespan

        loop = asyncio.get_running_loop()
        lifetime.loop = loop
        buffered = _wants_buffered()
        api = RuntimeAPI(self._address)
        server = Server(api, function, self._logs, buffered=buffered)
        lifespan = Lifespan(function.asgi) if function.asgi is not None else None
        try:
            if lifespan is not None:
                server.state = await lifespan.start()
        except RuntimeFault as fault:
            return self._report(fault, on_failure[0], status=on_failure[1])
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shut_down, server)
        try:
            await server.run()
        except (RuntimeAPIError, OSError, ProtocolError) as error:
            self._logs.failure(failure_from(error), "")
            return EXIT_INIT
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else EXIT_INIT
        finally:
            if server.refuses:
                self._announce(server)
            await end_background(self._logs, timeout_s=SHUTDOWN_S)
            if lifespan is not None and not await lifespan.stop(timeout_s=SHUTDOWN_S):
                self._logs.warning("The application's shutdown failed or was cut short")
            await _cancel_the_rest()
            api.close()
        return 0

    def _shut_down(self, server: Server) -> None:
        """SIGTERM: nothing new is taken; what is in flight may be given time to end by itself."""
        server.refuse()
        patience_s = _patience_s() if server.busy else 0.0
        if patience_s:
            asyncio.get_running_loop().call_later(patience_s, self._announce, server)
        else:
            self._announce(server)

    def _announce(self, server: Server) -> None:
        """Tell the callbacks, once, that the little time which Lambda leaves begins now."""
        if self._announced:
            return
        self._announced = True
        for callback in list(lifetime.callbacks):
            self._call(callback)
        server.stop(drain_s=DRAIN_S)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            result = callback()
            if asyncio.iscoroutine(result):
                lifetime.spawn(result)
        except Exception as error:  # one callback's failure must not cost the others their turn
            self._logs.failure(failure_from(error), "")

    def _report(
        self, error: BaseException, path: str, *, status: int, header: str | None = None
    ) -> int:
        """Tell Lambda why the environment cannot start."""
        failure: Failure = failure_from(error)
        self._logs.failure(failure, "")
        request = self._address.request(
            "POST",
            path,
            headers=[
                ("Content-Type", "application/vnd.aws.lambda.error+json"),
                ("Lambda-Runtime-Function-Error-Type", header or failure.error_type),
            ],
            body=failure.to_json(),
        )
        answer = call_blocking(self._address, request, timeout_s=_REPORT_TIMEOUT_S)
        if answer is None or answer.status != 202:
            said = "nothing" if answer is None else str(answer.status)
            self._logs.warning(f"{path} answered {said}")
        return status


async def _cancel_the_rest() -> None:
    """Let what an application left running end in an orderly way, where it ends at once."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=0.02)


def _wants_buffered() -> bool:
    """One JSON document in place of a stream: under `sam local`, or where it is asked for."""
    if mode := os.environ.get("LAMBDA_STREAM_MODE", "").lower():
        return mode == "buffered"
    return os.environ.get("AWS_SAM_LOCAL", "").lower() == "true"


def _patience_s() -> float:
    """Seconds that work in flight has before the callbacks learn of SIGTERM; none on Lambda."""
    text = os.environ.get("LAMBDA_STREAM_DRAIN_MS", "")
    return int(text) / 1000 if text.isdigit() else 0.0
