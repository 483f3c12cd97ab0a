"""A function's own address, with the CORS that the chat's URL has on AWS, as the template says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from local.emulator.intrinsics import load_yaml
from local.front import route
from tests.functions.stack import ROOT
from tests.store.secure_services import Certificate

# Hop by hop, and what the server writes itself.
_OWN = {"transfer-encoding", "connection", "content-length", "date", "server", "content-encoding"}


def chat_cors() -> dict[str, Any]:
    """The `Cors` of the chat function's URL."""
    template = load_yaml((ROOT / "template.yaml").read_text())
    found: dict[str, Any] = template["Resources"]["ChatUrl"]["Properties"]["Cors"]
    return found


class FunctionUrl(ThreadingHTTPServer):
    """Answers preflights itself, and hands everything else on to `behind`.

    `origin` stands for what the template's `AllowOrigins` comes to; `function` is the one whose
    paths it knows, and no other's, where it is named.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.origin, self.cors, self.function = "", "", chat_cors(), ""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def function_url(certificate: Certificate | None = None) -> Iterator[FunctionUrl]:
    with FunctionUrl() as server:
        if certificate is not None:
            server.socket = certificate.context().wrap_socket(server.socket, server_side=True)
            server.url = server.url.replace("http:", "https:")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FunctionUrl

    def do_OPTIONS(self) -> None:
        cors = self.server.cors
        self.send_response(200)
        if self._send_allowed():
            self.send_header("access-control-allow-methods", ",".join(cors["AllowMethods"]))
            self.send_header("access-control-allow-headers", ",".join(cors["AllowHeaders"]))
            self.send_header("access-control-max-age", str(cors["MaxAge"]))
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.function not in ("", route(self.path.partition("?")[0])):
            self.send_error(404)
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", *_OWN}}
        sent: dict[str, Any] = {"headers": headers, "content": body, "timeout": 60}
        with httpx.stream(self.command, self.server.behind + self.path, **sent) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in _OWN:
                    self.send_header(name, value)
            if self._send_allowed():
                self.send_header(
                    "access-control-expose-headers", ",".join(self.server.cors["ExposeHeaders"])
                )
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in answer.iter_bytes():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    do_POST = do_DELETE = do_GET

    def _send_allowed(self) -> bool:
        allowed = self.headers.get("origin") == self.server.origin
        if allowed:
            self.send_header("access-control-allow-origin", self.server.origin)
        return allowed

    def log_message(self, format: str, *args: object) -> None:
        """Tests say enough."""
