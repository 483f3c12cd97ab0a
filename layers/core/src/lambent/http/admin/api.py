"""Calls the API in this process, as the person who is signed in to the pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import pymongo
from starlette.types import ASGIApp, Message, Scope

from lambent.admission.decisions import Principal

_STORES_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said. `data` is its JSON; None where it sent none."""

    status: int
    data: Any

    @property
    def good(self) -> bool:
        return self.status < 400

    @property
    def detail(self) -> str:
        """What to tell a person of a refusal."""
        said = self.data if isinstance(self.data, Mapping) else {}
        errors = [f"{one['field']}: {one['message']}" for one in said.get("errors", ())]
        return " ".join([str(said.get("detail") or "Something went wrong."), *errors])


class Failed(Exception):
    """The API refused what a page cannot be made without."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


class Api:
    """The API for one request of one person. Nothing here decides what that person may do."""

    def __init__(self, app: ASGIApp, principal: Principal, scope: Scope) -> None:
        self._app = app
        self._principal = principal
        self._scope = scope

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET. Raises `Failed` where it is refused."""
        answer = await self.call("GET", path, query=query)
        if not answer.good:
            raise Failed(answer)
        return answer.data

    async def maybe(self, path: str, **query: Any) -> Any:
        """The same for a part that a page can do without: None where it is refused."""
        answer = await self.call("GET", path, query=query)
        return answer.data if answer.good else None

    async def call(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Answer:
        """One call; empty and absent query values are left out."""
        asked = {key: value for key, value in (query or {}).items() if value not in (None, "")}
        sent = b"" if body is None else json.dumps(body).encode()
        answer = _Collected()
        delivered = False

        async def receive() -> Message:
            nonlocal delivered
            if delivered:
                return {"type": "http.disconnect"}
            delivered = True
            return {"type": "http.request", "body": sent, "more_body": False}

        scope = self._request(method, path, query=urlencode(asked), length=len(sent))
        try:
            with pymongo.timeout(_STORES_LIMIT_S):
                await self._app(scope, receive, answer.send)
        except Exception:  # FastAPI answers first, and then raises what it answered
            if answer.status == 0:
                raise
        return answer.whole()

    def _request(self, method: str, path: str, *, query: str, length: int) -> Scope:
        kind = (b"content-type", b"application/json")
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": quote(path).encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [kind, (b"content-length", str(length).encode())],
            "client": self._scope.get("client"),
            "server": self._scope.get("server"),
            "lambent.request_id": self._scope["lambent.request_id"],
            # What admission would have put there: this person has been admitted already.
            "state": {"principal": self._principal, "via": "page"},
        }


class _Collected:
    """Collects one answer."""

    def __init__(self) -> None:
        self.status = 0
        self._pieces: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self._pieces.append(message.get("body", b""))

    def whole(self) -> Answer:
        text = b"".join(self._pieces)
        try:
            return Answer(self.status, json.loads(text) if text else None)
        except ValueError:
            return Answer(self.status, text.decode(errors="replace"))


def path(*parts: str) -> str:
    """A path of the API; each part is one segment, whatever is in it."""
    return "/" + "/".join(part.replace("/", "%2F") for part in parts)
