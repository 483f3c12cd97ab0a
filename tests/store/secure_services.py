"""Stores that ask for a password and speak TLS, with certificates of our own making."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from local.services.process import Child, free_port

NAMES = "DNS:db.example.com,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-made one for db.example.com and 127.0.0.1; `path` verifies it."""

    path: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificate:
        made = cls(folder / "server.pem", folder / "server.key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=db.example.com", "-addext",
             f"subjectAltName={NAMES}", "-keyout", made.key, "-out", made.path],
            check=True, capture_output=True,
        )  # fmt: skip
        return made

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


@asynccontextmanager
async def tls_in_front(port: int, certificate: Certificate) -> AsyncIterator[int]:
    """A port that answers Postgres' request for TLS and hands all else to the real server."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            asked = await reader.readexactly(8)
            assert asked[4:] == (80877103).to_bytes(4), "plain text where TLS was to be spoken"
            writer.write(b"S")
            await writer.start_tls(certificate.context())
            behind = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class GuardedMongo:
    """A MongoDB-compatible server with passwords, over TLS where a certificate is given."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def uri(self, password: str) -> str:
        return f"mongodb://app:{password}@127.0.0.1:{self.port}/?authSource=admin"

    def set_password(self, old: str, new: str) -> None:
        """Rotate it, while the server runs."""
        client: MongoClient[Any]
        with MongoClient(self.uri(old)) as client:
            client.admin.command("updateUser", "app", pwd=new)

    @contextmanager
    def running(self, *flags: str) -> Iterator[None]:
        config = self.folder / "mongo.toml"
        config.touch()
        (self.folder / "data").mkdir(exist_ok=True)
        child = Child(
            "mongo",
            [
                *(sys.executable, "-m", "secantus", "--config", config, "--standalone"),
                *("--host", "127.0.0.1", "--port", str(self.port), "--log-level", "WARNING"),
                *("--storage-path", self.folder / "data", "--cache-size", "64M", *flags),
            ],
            log_path=self.folder / "mongo.log",
            cwd=self.folder,
        )
        try:
            child.wait_until_ready(self._answers, timeout_s=30)
            yield
        finally:
            if "--auth" in flags or "--tls-cert-file" in flags:
                child.kill()
            else:
                # By request, not by force: users are not journalled, and the next start needs them.
                child.process.send_signal(signal.SIGTERM)
                time.sleep(0.05)
                with contextlib.suppress(OSError):
                    self._answers()  # or its accept loop sits out two seconds
                child.stop([signal.SIGTERM], timeout_s=5)

    def _answers(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            pass


@contextmanager
def guarded_mongo(folder: Path) -> Iterator[GuardedMongo]:
    """One that asks for passwords; that of its user `app` is `one`."""
    made = GuardedMongo(folder, free_port())
    client: MongoClient[Any]
    with made.running(), MongoClient(f"mongodb://127.0.0.1:{made.port}") as client:
        client.admin.command("createUser", "app", pwd="one", roles=["root"])
    with made.running("--auth"):
        yield made
