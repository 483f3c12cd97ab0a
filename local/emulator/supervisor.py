"""Runs all functions of a template together: their pools, queues, schedules and ports."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local.emulator.deferred import EventQueue
from local.emulator.environment import Environment
from local.emulator.guardian import Guardian
from local.emulator.invoke import InvokeApi
from local.emulator.logs import FunctionLog, Listener
from local.emulator.pool import Pool
from local.emulator.process import declared_environment
from local.emulator.reload import watch
from local.emulator.reply import Failure, Invocation
from local.emulator.schedule import Ticks, run_schedule
from local.emulator.settings import EmulatorSettings
from local.emulator.template import Function, Template
from local.emulator.url import FunctionUrls
from local.emulator.wire import Server

_SCALE_EVERY_S = 1.0


class FunctionError(Exception):
    """A function that the stack itself invoked failed."""

    def __init__(self, function: str, failure: Failure) -> None:
        super().__init__(f"{function}: {failure.error_type}: {failure.message}")
        self.failure = failure


class Emulator:
    """`start`, then ports; `close` ends every process. Use as an async context manager."""

    def __init__(
        self,
        template: Template,
        settings: EmulatorSettings,
        *,
        listener: Listener | None = None,
        on_change: Callable[[], None] = lambda: None,
        guardian: Guardian | None = None,
    ) -> None:
        self.template = template
        self.pools: dict[str, Pool] = {}
        self._settings = settings
        self._listener = listener
        self._on_change = on_change
        self._own_guardian = guardian is None
        self._guardian = guardian or Guardian()
        self._logs: dict[str, FunctionLog] = {}
        self._queues: dict[str, EventQueue] = {}
        self._names: dict[str, Pool] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_watching = asyncio.Event()
        self._servers: list[Server] = []
        self.invoke_url = ""

    async def __aenter__(self) -> "Emulator":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Open the Invoke API and set up the functions; no process starts before it is needed."""
        for function in self.template.functions:
            declared_environment(function, self._settings)  # all problems before any process
        api = Server(InvokeApi(self.find, lambda function: self._queues[function.short]))
        await api.start(self._settings.host, self._settings.invoke_port)
        self._servers.append(api)
        self.invoke_url = f"http://{self._settings.host}:{api.port}"
        for function in self.template.functions:
            self._add(function)
        self._tasks.append(asyncio.get_running_loop().create_task(self._scale_in()))

    def start_schedules(self) -> None:
        """Rates count from here."""
        for function in self.template.functions:
            queue = self._queues[function.short]
            for schedule in function.schedules:
                fire = _fire(queue, function)
                task = run_schedule(schedule, fire)
                self._tasks.append(asyncio.get_running_loop().create_task(task))

    async def serve(self, route: Callable[[str], str | None], *, port: int = 0) -> Server:
        """Open a port that answers each path with the function whose short name `route` gives."""

        def pool_of(path: str) -> Pool | None:
            name = route(path)
            return self.pools.get(name) if name else None

        server = Server(FunctionUrls(pool_of))
        await server.start(self._settings.host, port)
        self._servers.append(server)
        return server

    async def serve_function(self, short: str) -> str:
        """A port of one function's own; returns its URL."""
        server = await self.serve(lambda _: short)
        return f"http://{self._settings.host}:{server.port}"

    async def invoke(self, short: str, event: dict[str, Any]) -> Any:
        """Invoke and wait; `FunctionError` when it fails."""
        pool = self.pools[short]
        invocation = Invocation(json.dumps(event).encode(), pool.function.arn(pool.function.alias))
        pool.submit(invocation)
        body = await invocation.reply.read()
        if invocation.reply.failure is not None:
            raise FunctionError(short, invocation.reply.failure)
        return json.loads(body or b"null")

    def find(self, name: str) -> Pool | None:
        """By function name, logical id or folder name."""
        return self._names.get(name)

    def pids(self) -> dict[str, list[int]]:
        return {short: pool.pids() for short, pool in self.pools.items()}

    def watch_files(self, notice: Callable[[str], None] = lambda _: None) -> None:
        """From now on a saved file restarts its function; `notice` is told of it."""
        functions = {function.short: function for function in self.template.functions}

        def recycle(concerned: list[Function], paths: list[Path]) -> None:
            notice(self._recycle(concerned, paths))

        task = watch(functions, recycle, stop=self._stop_watching)
        self._tasks.append(asyncio.get_running_loop().create_task(task))

    async def drain(self, timeout_s: float) -> None:
        """Take no new requests and let the present ones end.

        Busy functions get SIGTERM at once: a slice or a poller hands on what it has, and a
        streamed answer may go on for the settings' `drain_s`. Those that know no SIGTERM go on.
        """
        fronts = self._servers[1:]
        for server in fronts:
            server.stop_listening()
        for each in self.pools.values():
            each.drain()
        end_s = asyncio.get_running_loop().time() + timeout_s
        pools = self.pools.values()
        while any(pool.busy for pool in pools) or any(front.busy for front in fronts):
            if asyncio.get_running_loop().time() >= end_s:
                return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        self._stop_watching.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(queue.close() for queue in self._queues.values()))
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))
        await asyncio.gather(*(server.close() for server in self._servers))
        for log in self._logs.values():
            log.close()
        if self._own_guardian:
            await self._guardian.close()

    def _add(self, function: Function) -> None:
        log = FunctionLog(function.short, self._settings.log_folder, listener=self._listener)

        def start(on_change: Callable[[Environment], None]) -> Environment:
            return Environment(
                function,
                self._settings,
                log=log,
                guardian=self._guardian,
                invoke_url=self.invoke_url,
                on_change=on_change,
            )

        for schedule in function.schedules:
            Ticks(schedule, deployed_at=datetime.now(UTC))  # a bad expression is an error at start
        pool = Pool(function, self._settings, start=start, on_change=self._on_change)
        self._logs[function.short] = log
        self.pools[function.short] = pool
        self._queues[function.short] = EventQueue(
            pool, self._settings, log=log, send_on=self._send_on
        )
        for name in (function.short, function.logical_id, function.name):
            self._names[name] = pool

    def _send_on(self, target: str, record: bytes) -> bool:
        if ":function:" not in target:
            return False
        name, _, qualifier = target.partition(":function:")[2].partition(":")
        pool = self.find(name)
        if pool is None:
            return False
        self._queues[pool.function.short].put(record, qualifier=qualifier or None)
        return True

    def _recycle(self, concerned: list[Function], paths: list[Path]) -> str:
        # An editor's own files have come and gone by now.
        names = sorted({path.name for path in paths if path.exists()} or {p.name for p in paths})
        changed = f"{', '.join(names)} changed: restarting"
        restarted = []
        for function in concerned:
            if self.pools[function.short].pids():
                restarted.append(function.short)
            self._logs[function.short].line(changed)
            self.pools[function.short].recycle()
        return f"{changed} {', '.join(restarted) or 'nothing, as nothing of it runs'}"

    async def _scale_in(self) -> None:
        while True:
            await asyncio.sleep(min(_SCALE_EVERY_S, self._settings.idle_s))
            for pool in self.pools.values():
                pool.scale_in()


def _fire(queue: EventQueue, function: Function) -> Callable[[bytes], object]:
    return lambda payload: queue.put(payload, qualifier=function.alias)
