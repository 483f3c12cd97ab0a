"""Secrets Manager and SSM, as far as we speak to them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Kept(ThreadingHTTPServer):
    """What is kept, by name or ARN; `refuses` answers every write as a role without the right."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.values: dict[str, str] = {}
        self.reads: list[str] = []
        self.writes: list[str] = []
        self.refuses = False
        self.meanwhile: Callable[[], object] = lambda: None  # what happens while it writes
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def be_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on boto3 asks here."""
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_address[1]}",
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }.items():
            monkeypatch.setenv(name, value)


class _Answering(BaseHTTPRequestHandler):
    server: Kept

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        puts = self.headers["x-amz-target"] == "secretsmanager.PutSecretValue"
        status, answer = self._put(asked) if puts else self._get(asked)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _put(self, asked: dict[str, str]) -> tuple[int, object]:
        if self.server.refuses:
            return 400, {"__type": "AccessDeniedException", "message": "not authorized"}
        self.server.meanwhile()
        name = asked["SecretId"]
        self.server.writes.append(name)
        self.server.values[name] = asked["SecretString"]
        return 200, {"ARN": name}

    def _get(self, asked: dict[str, object]) -> tuple[int, object]:
        name = str(asked.get("Name") or asked["SecretId"])
        self.server.reads.append(name)
        value = self.server.values.get(name)
        if value is None:
            return 400, {"__type": "ParameterNotFound", "message": "none"}
        if "Name" in asked:
            assert asked["WithDecryption"] is True
            return 200, {"Parameter": {"Name": name, "Value": value}}
        return 200, {"Name": name, "SecretString": value}

    def log_message(self, format: str, *args: object) -> None:
        """Tests say enough."""
