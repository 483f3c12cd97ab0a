"""An internal extension that does nothing: Lambda sends SIGTERM only where one is registered."""

from __future__ import annotations

from lambda_stream.address import Address, BlockingConnection
from lambda_stream.wire import ProtocolError

NAME = "lambda-stream"
_BASE = "/2020-01-01/extension"
_TIMEOUT_S = 1.0


class Extension:
    """Registered for no event; its request for the next one stays open, or start-up would hang."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._connection = connection  # held, never read: no event will come

    def close(self) -> None:
        """At the process's end."""
        self._connection.close()

    @classmethod
    def register(cls, address: Address) -> Extension | None:
        """Register before the first /next; None where the Runtime API has no extensions."""
        register = address.request(
            "POST",
            f"{_BASE}/register",
            headers=[("Lambda-Extension-Name", NAME), ("Content-Type", "application/json")],
            body=b'{"events":[]}',
        )
        connection: BlockingConnection | None = None
        try:
            connection = BlockingConnection(address, timeout_s=_TIMEOUT_S)
            answer = connection.exchange(register)
            identifier = answer.headers.get("lambda-extension-identifier", "")
            if answer.status != 200 or not identifier:
                connection.close()
                return None
            if not answer.keep_alive:
                connection.close()
                connection = BlockingConnection(address, timeout_s=_TIMEOUT_S)
            headers = [("Lambda-Extension-Identifier", identifier)]
            connection.send(address.request("GET", f"{_BASE}/event/next", headers=headers))
        except (OSError, ProtocolError):
            if connection is not None:
                connection.close()
            return None
        return cls(connection)
