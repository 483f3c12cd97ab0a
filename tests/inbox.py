"""Where CloudFormation takes the answers of a custom resource."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Inbox:
    """Where CloudFormation takes answers: an HTTP server that keeps what is PUT to it."""

    def __init__(self, failures: int = 0) -> None:
        self.answers: list[dict[str, Any]] = []
        self.content_types: list[str | None] = []
        self.failures = failures
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                refused = inbox.failures > 0
                inbox.failures -= refused
                if not refused:
                    inbox.answers.append(json.loads(body))
                    inbox.content_types.append(self.headers["Content-Type"])
                self.send_response(500 if refused else 200)
                self.end_headers()

            def log_message(self, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/answer?signature=x"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
