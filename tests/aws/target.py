"""A platform as its users see it: two addresses and a key, wherever it runs."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from local.aws.forward import Forwarder

TARGETS = ("local", "localstack", "aws")
# What a person would wait for: a model that is loaded, a tick of the poller's minute.
LIMIT_S = 100.0
_AWS_VARIABLES = ("LAMBENT_CHAT_URL", "LAMBENT_GATEWAY_URL", "LAMBENT_ADMIN_KEY")


@dataclass(frozen=True, slots=True)
class Place:
    """An address, and the headers without which it is not reached."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the acceptance suite is run. `line` is the way to its model server, if it is ours."""

    name: str
    chat: Place
    gateway: Place
    admin_key: str
    line: Forwarder | None = None
    made_keys: list[str] = field(default_factory=list)

    def ask(
        self, place: Place, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> httpx.Response:
        """One request with that key; the admin's where none is named."""
        headers = {"Authorization": f"Bearer {self.admin_key if key is None else key}"}
        headers |= place.headers | options.pop("headers", {})
        url = place.url.rstrip("/") + path
        return httpx.request(
            method, url, headers=headers, timeout=120, trust_env=self.name == "aws", **options
        )

    def new_key(self, **fields: Any) -> str:
        """A fresh key of a fresh client."""
        body = {"name": "acceptance", "client": f"acceptance-{os.urandom(4).hex()}"}
        answer = self.ask(
            self.gateway, "POST", "/keys", json={**body, "scopes": ["chat"], **fields}
        )
        assert answer.status_code == 201, answer.text
        self.made_keys.append(answer.json()["id"])
        return str(answer.json()["key"])

    def end_keys(self) -> None:
        """Nothing that the suite made lets anyone in when it is over: one of them is an admin's."""
        for key_id in self.made_keys:
            ended = self.ask(self.gateway, "DELETE", f"/keys/{key_id}")
            assert ended.status_code == 204, ended.text

    def until(self, seen: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
        """What `seen` gives, once it is `good`."""
        ends_s = time.monotonic() + LIMIT_S
        while True:
            last = seen()
            if good(last):
                return last
            assert time.monotonic() < ends_s, f"{self.name} stands still: {last}"
            time.sleep(0.2)

    def run(self, run_id: str) -> dict[str, Any]:
        answer = self.ask(self.gateway, "GET", f"/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def publish(self, event: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/cloudevents+json"}
        content = json.dumps({"specversion": "1.0", "source": "/acceptance", **event})
        sent = self.ask(self.gateway, "POST", "/events", content=content, headers=headers)
        assert sent.status_code == 202, sent.text

    @contextmanager
    def model_away(self) -> Iterator[None]:
        """Nothing answers where the model server was, for as long as the block lasts."""
        assert self.line is not None
        self.line.cut()
        try:
            yield
        finally:
            self.line.mend()


def frames(text: str) -> list[Any]:
    """The data of each frame of a whole stream; `[DONE]` stays a string."""
    found = re.findall(r"^data: (.*)$", text, re.M)
    return [one if one == "[DONE]" else json.loads(one) for one in found]


def aws_target() -> Target:
    """The deployment that the environment names."""
    missing = [name for name in _AWS_VARIABLES if not os.environ.get(name)]
    if missing:
        raise RuntimeError(f"--target aws: set {', '.join(missing)}")
    chat, gateway, key = (os.environ[name] for name in _AWS_VARIABLES)
    return Target("aws", Place(chat), Place(gateway), key)
