"""Puts the one-machine stack together: services, functions, front port, ready.json."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local import front
from local.direct import open_url
from local.embedded import Embedded, Service
from local.emulator.guardian import Guardian
from local.emulator.settings import EmulatorSettings
from local.emulator.supervisor import Emulator, FunctionError
from local.emulator.template import Template, read_template
from local.readiness import silent_services
from local.screen import Screen
from local.services import ModelServer, Mongo, Postgres, ServiceError
from local.services.process import free_port
from local.state import DataFolder

SETUP_FUNCTION = "setup"
_OWN_SERVICES = ("postgres", "mongo", "model")
_OWN_KEY = '"Authorization: Bearer $ADMIN_KEY"'
# A stop takes the drain, the time that is left to who did not end, and that of the services:
# together less than the five seconds that a person waits.
_DRAIN_S = 1.5
_AFTER_DRAIN_S = 0.3
_SERVICE_STOP_S = 1.5
_WARM = (front.CHAT_FUNCTION, front.GATEWAY_FUNCTION)


class StackError(Exception):
    """The stack cannot be started; the message is for the person who started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and the shell say. A named service is not started here."""

    template: Path
    data: Path
    port: int
    reload: bool
    max_environments: int
    postgres_dsn: str | None
    mongo_uri: str | None
    ollama_host: str | None
    authenticated: bool = True


class Stack:
    """`start` returns when the first request can be answered; `stop` leaves no process."""

    def __init__(self, options: Options, *, folder: DataFolder, screen: Screen) -> None:
        self._options = options
        self._folder = folder
        self._screen = screen
        self._guardian = Guardian()
        self._services: dict[str, Embedded] = {}
        self._starting: dict[str, asyncio.Task[Service]] = {}
        self._emulator: Emulator | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._postgres_dsn = options.postgres_dsn or ""
        self._mongo_uri = options.mongo_uri or ""
        self._ollama_host = options.ollama_host or ""
        self._url = ""
        self._admin_key: str | None = None
        self._ready = False
        self._write_planned = False

    async def start(self) -> None:
        began_s = time.monotonic()
        template = read_template(self._options.template)
        _check_port(self._options.port)
        async with self._screen.progress():
            await self._start_services()
            # Known before the functions start, which tell others where to call back.
            port = self._options.port or free_port()
            self._emulator = await self._start_functions(template, port)
            await self._open_front(self._emulator, port)
            await self._prepare(self._emulator)
            silent = await self._ask_named_services()
        self._emulator.start_schedules()
        if self._options.reload:
            self._emulator.watch_files(self._screen.note)
        self._watches = [asyncio.create_task(each.watch()) for each in self._services.values()]
        self._ready = True
        self._show_ready(time.monotonic() - began_s)
        for sentence in silent:
            self._screen.warn(sentence)
        self._write_ready()

    async def stop(self, *, hurry: asyncio.Event) -> bool:
        """Drain, then end everything; at once when `hurry` is set meanwhile.

        False if a service was still starting: it ends with this process, by its leash.
        """
        self._ready = False
        self._folder.remove_ready()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        if self._emulator is not None:
            await _either(self._emulator.drain(_DRAIN_S + _AFTER_DRAIN_S), hurry)
            await self._emulator.close()
        patience_s = 0.1 if hurry.is_set() else _SERVICE_STOP_S
        await asyncio.gather(*(each.stop(patience_s) for each in self._services.values()))
        started = await asyncio.gather(*map(_end_late_start, self._starting.values()))
        await self._guardian.close()
        return all(started)

    async def _start_services(self) -> None:
        """All at once: each takes its time to start, on another core or waiting for disk."""
        data = self._folder.path
        wanted: dict[str, Callable[[], Service]] = {}
        if not self._options.postgres_dsn:
            wanted["postgres"] = lambda: Postgres.start(data)
        if not self._options.mongo_uri:
            wanted["mongo"] = lambda: Mongo.start(data)
        if not self._options.ollama_host:
            wanted["model"] = lambda: ModelServer.start(data)
        starts = [self._start_service(name, start) for name, start in wanted.items()]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                raise StackError(str(outcome)) from outcome
            if isinstance(outcome, BaseException):
                raise outcome

    async def _start_service(self, name: str, start: Callable[[], Service]) -> None:
        with self._screen.step(f"starting {name}"):
            task = self._starting[name] = asyncio.create_task(asyncio.to_thread(start))
            service = await asyncio.shield(task)
        del self._starting[name]
        self._services[name] = Embedded(
            name,
            service,
            held=self._folder.held,
            screen=self._screen,
            guardian=self._guardian,
            on_change=self._changed,
        )
        match service:
            case Postgres():
                self._postgres_dsn = service.dsn
            case Mongo():
                self._mongo_uri = service.uri
            case ModelServer():
                self._ollama_host = service.host

    async def _start_functions(self, template: Template, port: int) -> Emulator:
        settings = EmulatorSettings(
            log_folder=self._folder.logs,
            max_environments=self._options.max_environments,
            drain_s=_DRAIN_S,
            overrides={
                "POSTGRES_DSN": self._postgres_dsn,
                "MONGO_URI": self._mongo_uri,
                "OLLAMA_HOST": self._ollama_host,
                "CALLBACK_BASE_URL": os.environ.get("CALLBACK_BASE_URL") or _local_url(port),
            },
            # A receiver under development runs on this machine; at AWS no webhook may call it.
            extra={"WEBHOOK_ALLOW_LOOPBACK": "true"},
        )
        emulator = Emulator(
            template,
            settings,
            listener=self._screen.function_line,
            on_change=self._changed,
            guardian=self._guardian,
        )
        await emulator.start()
        return emulator

    async def _open_front(self, emulator: Emulator, port: int) -> None:
        try:
            server = await emulator.serve(front.route, port=port)
        except OSError as error:
            raise _port_error(port, error) from error
        self._url = _local_url(server.port)

    async def _prepare(self, emulator: Emulator) -> None:
        """Set up the stores while the first environments, and the model, get warm."""
        steps: list[Coroutine[Any, Any, None]] = [
            self._warm(emulator, name) for name in _WARM if name in emulator.pools
        ]
        if SETUP_FUNCTION in emulator.pools:
            steps.append(self._set_up(emulator))
        if "model" in self._services:
            steps.append(self._load_model())
        tasks = [asyncio.create_task(step) for step in steps]
        try:
            await asyncio.gather(*tasks)
        finally:  # one that failed says why; what became of the others is of no interest then
            for task in tasks:
                task.cancel()

    async def _ask_named_services(self) -> list[str]:
        """Our own services are known to answer; for a person's own it is worth a question."""
        if len(self._services) == len(_OWN_SERVICES):
            return []
        with self._screen.step("asking the named services"):
            return await asyncio.to_thread(silent_services, self._url)

    async def _warm(self, emulator: Emulator, name: str) -> None:
        pool = emulator.pools[name]
        with self._screen.step(f"starting {name}"):
            pool.warm()
            if not await pool.warmed():
                self._screen.warn(f"{name} did not start; see {self._folder.logs / name}.log")

    async def _set_up(self, emulator: Emulator) -> None:
        named_dsn = self._options.postgres_dsn
        kept = self._folder.read_admin_key(named_dsn)
        event = {"action": "setup"}
        if kept and named_dsn is None:  # somebody else may use the key of a database of their own
            event["admin_secret"] = kept
        with self._screen.step("setting up"):
            try:
                answer = await emulator.invoke(SETUP_FUNCTION, event)
            except FunctionError as error:
                log = self._folder.logs / f"{SETUP_FUNCTION}.log"
                raise StackError(f"setup failed: {error}\nIts log: {log}") from error
        key = answer.get("admin_key") if isinstance(answer, dict) else None
        if key:
            self._folder.keep_admin_key(str(key), named_dsn)
        self._admin_key = self._folder.read_admin_key(named_dsn)

    async def _load_model(self) -> None:
        """Ask for the model without a prompt, so that the first answer does not wait for it."""
        with contextlib.suppress(OSError):  # only a courtesy: the first request would load it
            await asyncio.to_thread(_load, self._ollama_host)

    def _changed(self) -> None:
        """Something's pid changed: write ready.json once for all changes of this moment."""
        if self._ready and not self._write_planned:
            self._write_planned = True
            asyncio.get_running_loop().call_later(0.02, self._write_ready)

    def _write_ready(self) -> None:
        self._write_planned = False
        if not self._ready or self._emulator is None:
            return
        pids: dict[str, Any] = {name: each.pid for name, each in self._services.items()}
        content = {
            "url": self._url,
            "admin_key": self._admin_key,
            "mongo_uri": self._mongo_uri,
            "postgres_dsn": self._postgres_dsn,
            "ollama_host": self._ollama_host,
            "invoke_url": self._emulator.invoke_url,
            "pids": {**pids, "functions": self._emulator.pids()},
        }
        try:
            self._folder.write_ready(content)
        except OSError as error:  # what runs goes on; who reads the file learns of it later
            self._screen.warn(f"ready.json cannot be written: {error.strerror}")

    def _show_ready(self, took_s: float) -> None:
        facts = {
            "data": str(self._folder.path),
            "logs": str(self._folder.logs),
            "model": self._ollama_host,
        }
        if self._admin_key:
            facts["admin key"] = str(self._folder.admin_key_path(self._options.postgres_dsn))
        elif self._options.authenticated:
            facts["admin key"] = "made earlier, and not from this folder: put it into $ADMIN_KEY"
        self._screen.ready(url=self._url, facts=facts, curl=self._curl(), took_s=took_s)

    def _curl(self) -> str:
        body = json.dumps({"agent": "chat", "input": "Hello! Who are you?"})
        lines = [f"curl -N {self._url}/chat/stream"]
        if self._options.authenticated:
            given = f"'Authorization: Bearer {self._admin_key}'"
            lines.append(f"-H {given if self._admin_key else _OWN_KEY}")
        lines += ["-H 'Content-Type: application/json'", f"-d '{body}'"]
        return " \\\n  ".join(lines)


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _check_port(port: int) -> None:
    """Before anything is started, which takes a while: that a port is taken is known at once."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise _port_error(port, error) from error


def _port_error(port: int, error: OSError) -> StackError:
    why = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror
    return StackError(f"port {port} cannot be used: {why}; choose another with --port")


async def _either(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    tasks = {asyncio.create_task(work), asyncio.create_task(stop.wait())}
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def _end_late_start(starting: asyncio.Task[Service]) -> bool:
    """Kill a service that came up after the stop was asked for; False if it still has not."""
    await asyncio.wait({starting}, timeout=_SERVICE_STOP_S)
    if not starting.done():
        return False
    if starting.exception() is None:
        await asyncio.to_thread(starting.result().kill)
    return True


def _load(host: str) -> None:
    request = urllib.request.Request(
        f"{host}/api/generate",
        data=json.dumps({"model": ModelServer.model}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with open_url(request, timeout=10) as answer:
        answer.read()
