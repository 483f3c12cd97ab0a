"""The Runtime API's client: the next invocation, buffered answers, errors."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass

from lambda_stream.address import Address
from lambda_stream.failure import Failure
from lambda_stream.wire import Answer, AnswerParser, ProtocolError

_BASE = "/2018-06-01/runtime/invocation"


def _far_deadline_ms() -> int:
    """Lambda's own maximum, for an emulator that names no deadline."""
    return int((time.time() + 900) * 1000)


class RuntimeAPIError(Exception):
    """The Runtime API refused in a way that ends the process."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What /next handed over; a header that was left out is empty text."""

    request_id: str
    deadline_ms: int
    function_arn: str
    trace_id: str
    client_context: str
    cognito_identity: str
    tenant_id: str
    invocation_id: str
    body: bytes

    def path(self, end: str) -> str:
        return f"{_BASE}/{self.request_id}/{end}"

    def echo(self) -> list[tuple[str, str]]:
        """The header that /response and /error repeat, where it was given."""
        if self.invocation_id:
            return [("Lambda-Runtime-Invocation-Id", self.invocation_id)]
        return []


class RuntimeAPI:
    """One keep-alive connection, renewed when it broke; one exchange at a time."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sock: socket.socket | None = None

    async def next_invocation(self) -> Invocation:
        """Wait, without a timeout (the process may be frozen for hours).

        Raises RuntimeAPIError for an answer other than 200, OSError and ProtocolError.
        """
        answer = await self._exchange(self.address.request("GET", f"{_BASE}/next"))
        if answer.status != 200:
            raise RuntimeAPIError(f"/next answered {answer.status}: {answer.body[:500]!r}")
        headers = answer.headers
        request_id = headers.get("lambda-runtime-aws-request-id", "")
        if not request_id or not request_id.isascii() or set(request_id) & set("/?# "):
            raise RuntimeAPIError(f"/next gave no usable request id: {request_id!r}")
        try:
            deadline_ms = int(headers.get("lambda-runtime-deadline-ms") or _far_deadline_ms())
        except ValueError:
            raise RuntimeAPIError("/next gave a deadline that is no number") from None
        return Invocation(
            request_id=request_id,
            deadline_ms=deadline_ms,
            function_arn=headers.get("lambda-runtime-invoked-function-arn", ""),
            trace_id=headers.get("lambda-runtime-trace-id", ""),
            client_context=headers.get("lambda-runtime-client-context", ""),
            cognito_identity=headers.get("lambda-runtime-cognito-identity", ""),
            tenant_id=headers.get("lambda-runtime-aws-tenant-id", ""),
            invocation_id=headers.get("lambda-runtime-invocation-id", ""),
            body=answer.body,
        )

    async def respond(self, invocation: Invocation, body: bytes, *, content_type: str) -> Answer:
        """Post a buffered answer; the caller looks at the status. Raises OSError, ProtocolError."""
        headers = [("Content-Type", content_type), *invocation.echo()]
        path = invocation.path("response")
        return await self._exchange(self.address.request("POST", path, headers=headers, body=body))

    async def fail(self, invocation: Invocation, failure: Failure) -> Answer:
        """Post an error in place of an answer. Raises OSError, ProtocolError."""
        headers = [
            ("Content-Type", "application/vnd.aws.lambda.error+json"),
            ("Lambda-Runtime-Function-Error-Type", failure.error_type),
            *invocation.echo(),
        ]
        if cause := failure.xray_cause():
            headers.append(("Lambda-Runtime-Function-XRay-Error-Cause", cause))
        body = failure.to_json(invocation.request_id)
        path = invocation.path("error")
        return await self._exchange(self.address.request("POST", path, headers=headers, body=body))

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _exchange(self, request: bytes) -> Answer:
        """Send and read; once more on a new connection if a kept one turns out to be dead."""
        reused = self._sock is not None
        parser = AnswerParser()
        try:
            return await self._attempt(request, parser)
        except (OSError, ProtocolError):
            self.close()
            if not (reused and parser.untouched):
                raise
        except BaseException:
            self.close()
            raise
        try:
            return await self._attempt(request, AnswerParser())
        except BaseException:
            self.close()
            raise

    async def _attempt(self, request: bytes, parser: AnswerParser) -> Answer:
        loop = asyncio.get_running_loop()
        if self._sock is None:
            self._sock = self.address.new_socket()
            self._sock.setblocking(False)
            await loop.sock_connect(self._sock, self.address.target)
        sock = self._sock
        await loop.sock_sendall(sock, request)
        while (answer := parser.feed(await loop.sock_recv(sock, 262144))) is None:
            pass
        if not answer.keep_alive:
            self.close()
        return answer
