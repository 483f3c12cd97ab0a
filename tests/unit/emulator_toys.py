"""Toy functions and a template for the emulator's own tests, written into a folder."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

from local.emulator.settings import EmulatorSettings
from local.emulator.supervisor import Emulator
from local.emulator.template import read_template

STREAMING = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/lambda-stream"}


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
    async def run(self, **settings: Any) -> AsyncIterator[Emulator]:
        chosen = EmulatorSettings(
            log_folder=self.folder / "logs", **({"grace_s": 0.3, "init_s": 60.0} | settings)
        )
        async with Emulator(read_template(self.write()), chosen) as emulator:
            yield emulator

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()

    def failures(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / "failures" / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]
