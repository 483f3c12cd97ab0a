"""Embedded services: kept data, hard deaths, second owners, and nothing left behind."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from pymongo import MongoClient, WriteConcern

from local.services import ModelServer, Mongo, Postgres, PostgresHost, ServiceError
from local.services.process import ROOT, Child


def gone(pid: int, *, within_s: float = 30.0) -> bool:
    """Whether the process has ended; a zombie counts as ended."""
    deadline_at = time.monotonic() + within_s
    while time.monotonic() < deadline_at:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def write_row(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def rows(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def test_postgres_keeps_what_was_committed_over_a_kill_and_its_port(tmp_path: Path) -> None:
    with Postgres.start(tmp_path) as server:
        dsn = server.create_database("app")
        write_row(dsn)
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            rows(dsn)
        server.restart()
        assert rows(dsn) == 1


def test_a_second_start_of_postgres_takes_up_the_same_data(tmp_path: Path) -> None:
    with Postgres.start(tmp_path) as first:
        write_row(first.create_database("app"))
        old_pid = first.pid
    with Postgres.start(tmp_path, port=first.port) as second:
        assert second.pid != old_pid
        assert rows(second.dsn_for("app")) == 1


def test_two_postgres_on_one_folder_are_refused(tmp_path: Path) -> None:
    with Postgres.start(tmp_path) as server:
        with pytest.raises(ServiceError, match=f"pid {server.pid}.* already runs"):
            Postgres.start(tmp_path)
        server.ping()


def test_a_lock_file_of_a_number_used_again_is_no_obstacle(tmp_path: Path) -> None:
    with Postgres.start(tmp_path) as server:
        lock = tmp_path / "postgres" / "postmaster.pid"
        said = lock.read_text().split("\n", 1)[1]
        server.kill()
        lock.write_text(f"{os.getpid()}\n{said}")
        server.restart()
        server.ping()


def test_an_interrupted_initdb_is_begun_again(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with Postgres.start(tmp_path) as server:
        server.ping()


def test_a_port_that_is_taken_is_said_with_the_logs_end(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ServiceError, match="Address already in use"):
            Postgres.start(tmp_path, port=other.getsockname()[1])


def test_a_dropped_database_takes_its_connections_with_it(postgres_server: PostgresHost) -> None:
    dsn = postgres_server.create_database("to_be_dropped")
    with psycopg.connect(dsn) as connection:
        postgres_server.drop_database("to_be_dropped")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_dsn_keeps_its_parameters_for_another_database() -> None:
    url = PostgresHost("postgresql://me:pw@db:5433/postgres?sslmode=require")
    assert url.dsn_for("app") == "postgresql://me:pw@db:5433/app?sslmode=require"
    words = PostgresHost("host=db port=5433 dbname=postgres")
    assert words.dsn_for("app") == "dbname=app host=db port=5433"


def test_mongo_keeps_a_journaled_write_over_a_kill(tmp_path: Path) -> None:
    with Mongo.start(tmp_path) as server:
        with MongoClient[dict[str, int]](server.uri) as client:
            kept = client["app"].get_collection("kept", write_concern=WriteConcern(w=1, j=True))
            kept.insert_one({"n": 1})
        server.kill()
        server.restart()
        with MongoClient[dict[str, int]](server.uri) as client:
            assert client["app"]["kept"].count_documents({}) == 1


def test_another_mongo_server_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "a-server"
    text = f'#!/bin/sh\ntouch {tmp_path}/asked\nexec {sys.executable} -m secantus "$@"\n'
    program.write_text(text)
    monkeypatch.setenv("LAMBENT_MONGO_SERVER", str(program))
    with pytest.raises(ServiceError, match=r"LAMBENT_MONGO_SERVER names .*a-server, no program"):
        Mongo.start(tmp_path)
    program.chmod(0o755)
    with Mongo.start(tmp_path) as server:
        server.ping()
        assert (tmp_path / "asked").exists()


def test_two_mongos_on_one_folder_are_refused(tmp_path: Path) -> None:
    with Mongo.start(tmp_path) as server:
        with pytest.raises(ServiceError, match="another process"):
            Mongo.start(tmp_path)
        server.ping()


def test_a_stop_is_safe_to_repeat(tmp_path: Path) -> None:
    server = ModelServer.start(tmp_path)
    server.stop()
    server.stop()
    server.kill()
    assert gone(server.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
def test_a_killed_parent_leaves_no_service_behind(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from local.services import *\n"
        "d = pathlib.Path(sys.argv[1])\n"
        "print(Postgres.start(d).pid, Mongo.start(d).pid, ModelServer.start(d).pid, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        parent.kill()
    assert all(gone(pid) for pid in pids)


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    def start() -> Child:
        return Child("sleep", ["/bin/sleep", "60"], log_path=tmp_path / "sleep.log")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        child = pool.submit(start).result()
    time.sleep(0.2)  # the thread has ended by now, and with it would the child
    assert child.alive
    child.stop([signal.SIGTERM], timeout_s=5)
    assert not child.alive


def test_a_child_that_ends_at_once_is_told_with_what_it_said(tmp_path: Path) -> None:
    def never() -> None:
        raise ConnectionError("refused")

    command = ["/bin/sh", "-c", "echo out of luck; exit 7"]
    child = Child("luckless", command, log_path=tmp_path / "log")
    with pytest.raises(ServiceError, match=r"(?s)luckless ended with status 7.*out of luck"):
        child.wait_until_ready(never, timeout_s=5)


def test_a_service_is_reached_without_the_proxy_of_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with ModelServer.start(tmp_path) as server:
        server.ping()
