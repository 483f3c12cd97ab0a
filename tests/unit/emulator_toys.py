"""Toy functions and a template for the emulator's own tests, written into a folder."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

from local.emulator.settings import EmulatorSettings
from local.emulator.supervisor import Emulator
from local.emulator.template import read_template

STREAMING = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/lambda-stream"}
URL = {"FunctionUrlConfig": {"AuthType": "NONE"}}
STREAM_URL = {"FunctionUrlConfig": {"AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM"}}


async def eventually(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Wait for what another process does; TimeoutError when it does not come about."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - nothing in this process could set an event
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Toys:
    """Collects functions, then writes `template.yaml` and the handlers below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resources: dict[str, Any] = {}

    def add(
        self, name: str, source: str, *, env: Mapping[str, str] | None = None, **properties: Any
    ) -> "Toys":
        code = self.folder / "functions" / name
        code.mkdir(parents=True)
        (code / "handler.py").write_text(dedent(source))
        self.resources[f"{name.capitalize()}Function"] = {
            "Type": "AWS::Serverless::Function",
            "Properties": {
                "CodeUri": f"functions/{name}",
                "Handler": "handler.handler",
                "Timeout": 20,
                "Environment": {"Variables": dict(env or {})},
                **properties,
            },
        }
        return self

    def write(self) -> Path:
        path = self.folder / "template.yaml"
        path.write_text(yaml.safe_dump({"Resources": self.resources}))
        return path

    @asynccontextmanager
    async def run(
        self, *, on_change: Callable[[], None] = lambda: None, **settings: Any
    ) -> AsyncIterator[Emulator]:
        chosen = EmulatorSettings(
            log_folder=self.folder / "logs", **({"grace_s": 0.3, "init_s": 60.0} | settings)
        )
        template = read_template(self.write())
        async with Emulator(template, chosen, on_change=on_change) as emulator:
            yield emulator

    def log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    async def logged(self, name: str, text: str, *, within_s: float = 30.0) -> None:
        """Wait for a line; the test fails when it does not come."""
        await eventually(lambda: text in self.log(name), within_s=within_s)

    def failures(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / "failures" / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]
