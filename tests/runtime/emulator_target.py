"""The emulator of local/ as a target: asked by boto3, and through its Function URL."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import yaml
from botocore.config import Config

from local.emulator.settings import EmulatorSettings
from local.emulator.supervisor import Emulator
from local.emulator.template import read_template
from tests.runtime.contract import Reply, split_stream
from tests.runtime.process import FUNCTIONS, ROOT

_SHORT = FUNCTIONS.name


class EmulatorTarget:
    """An emulator on a thread of its own, asked through InvokeWithResponseStream and Invoke."""

    def __init__(self, handler: str, *, timeout_s: float = 20.0) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._template = _write_template(Path(self._folder.name), handler, timeout_s=timeout_s)
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.result(30)
        self._client = boto3.client(
            "lambda",
            endpoint_url=self._emulator.invoke_url,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(retries={"max_attempts": 0}, read_timeout=60),
        )

    @property
    def output(self) -> str:
        path = self._template.parent / "logs" / f"{_SHORT}.log"
        return path.read_text() if path.exists() else ""

    def request(self, event: dict[str, Any]) -> Reply:
        stream = self._stream(event)
        received, arrivals, error = b"", set(), None
        for part in stream:
            if "PayloadChunk" in part:
                received += part["PayloadChunk"]["Payload"]
                arrivals.add(round(time.monotonic(), 2))
            elif details := part["InvokeComplete"].get("ErrorDetails"):
                error = json.loads(details)
        if bytes(8) not in received:
            return Reply(500, error=error)
        whole = split_stream(received)
        return Reply(whole.status, whole.headers, whole.cookies, whole.body, error, len(arrivals))

    def invoke(self, event: Any) -> Reply:
        answer = self._client.invoke(FunctionName="sample", Payload=json.dumps(event))
        body = answer["Payload"].read()
        return Reply(body=body, error=json.loads(body) if "FunctionError" in answer else None)

    def hang_up(self, event: dict[str, Any]) -> None:
        stream = self._stream(event)
        next(iter(stream))
        stream.close()

    def stop(self) -> None:
        self._run(self._emulator.pools[_SHORT].close())

    def close(self) -> None:
        self._client.close()
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the emulator did not end"
        self._folder.cleanup()

    def _stream(self, event: dict[str, Any]) -> Any:
        payload = json.dumps(event)
        answer = self._client.invoke_with_response_stream(FunctionName="sample", Payload=payload)
        return answer["EventStream"]

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self, started: Future[None]) -> None:
        settings = EmulatorSettings(log_folder=self._template.parent / "logs", init_s=60.0)
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with Emulator(read_template(self._template), settings) as self._emulator:
                self._url = await self._emulator.serve_function(_SHORT)
                started.set_result(None)
                await self._closing.wait()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)


class FunctionURLTarget(EmulatorTarget):
    """The same function as an HTTP client sees it; a REST API's event comes as it would there."""

    def request(self, event: dict[str, Any]) -> Reply:
        if event.get("version") != "2.0":
            return super().request(event)
        connection, answer = self._ask(event)
        body, arrivals = b"", set()
        try:
            while piece := answer.read1(1 << 20):
                body += piece
                arrivals.add(round(time.monotonic(), 2))
        except http.client.IncompleteRead as cut:  # how a client learns of a late error
            body += cut.partial
        finally:
            connection.close()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        cookies = answer.headers.get_all("set-cookie") or []
        return Reply(answer.status, headers, cookies, body, arrivals=len(arrivals))

    def hang_up(self, event: dict[str, Any]) -> None:
        connection, answer = self._ask(event)
        assert answer.read1(1)
        answer.close()
        connection.close()

    def _ask(
        self, event: dict[str, Any]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=60)
        body = event.get("body", "").encode()
        if event["isBase64Encoded"]:
            body = base64.b64decode(body)
        query = event["rawQueryString"]
        connection.request(
            event["requestContext"]["http"]["method"],
            event["rawPath"] + (f"?{query}" if query else ""),
            body,
            event["headers"],
        )
        return connection, connection.getresponse()


def _write_template(folder: Path, handler: str, *, timeout_s: float) -> Path:
    variables = {
        "AWS_LAMBDA_EXEC_WRAPPER": "/opt/lambda-stream",
        "PYTHONDEVMODE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    layer = {
        "Type": "AWS::Serverless::LayerVersion",
        "Properties": {"ContentUri": str(ROOT / "layers/runtime")},
    }
    function = {
        "FunctionName": "sample",
        "CodeUri": str(FUNCTIONS),
        "Handler": handler,
        "Timeout": int(timeout_s),
        "Layers": [{"Ref": "Runtime"}],
        "Environment": {"Variables": variables},
        "FunctionUrlConfig": {"AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM"},
    }
    resources = {
        "Runtime": layer,
        "Sample": {"Type": "AWS::Serverless::Function", "Properties": function},
    }
    path = folder / "template.yaml"
    path.write_text(yaml.safe_dump({"Resources": resources}))
    return path
