"""LocalStack and `sam local` as targets of the runtime's conformance suite.

Both are started once and hold every function that the suite asks for; a target is one function of
theirs, asked through Lambda's Invoke.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.config import Config

from local.aws import base_image, sam
from tests.runtime.contract import Deploy, Reply, read_invoke, split_stream
from tests.runtime.process import FUNCTIONS

REGION = "us-east-1"
VARIABLES = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/lambda-stream", "PYTHONDONTWRITEBYTECODE": "1"}
HANDLERS = ("sample.app", "sample.plain", "sample.both", "sample.plain_async",
            "broken_import.handler")  # fmt: skip
SHORT_S = 2


class InvokedTarget:
    """One function, asked as boto3's `invoke` does. `read` gives all that it wrote."""

    def __init__(self, client: Any, name: str, read: Callable[[], str]) -> None:
        self._client, self._name, self._read = client, name, read

    @property
    def output(self) -> str:
        return self._read()

    def request(self, event: dict[str, Any]) -> Reply:
        raw = self._ask(event)
        if bytes(8) in raw:
            return split_stream(raw)
        document = json.loads(raw)
        if "statusCode" not in document:  # no answer was begun
            return Reply(500, error=document)
        coded = document["isBase64Encoded"]
        body = base64.b64decode(document["body"]) if coded else document["body"].encode()
        return Reply(document["statusCode"], document["headers"], document["cookies"], body)

    def invoke(self, event: Any) -> Reply:
        return read_invoke(self._ask(event))

    def hang_up(self, event: dict[str, Any]) -> None:
        raise NotImplementedError("nothing arrives before the end")

    def stop(self) -> None:
        raise NotImplementedError("its environments end when it likes")

    def close(self) -> None: ...

    def _ask(self, event: Any) -> bytes:
        answer = self._client.invoke(FunctionName=self._name, Payload=json.dumps(event))
        body: bytes = answer["Payload"].read()
        return body


def _client(service: str, endpoint: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"max_attempts": 0}, read_timeout=60),
    )


def in_localstack(endpoint: str, layer: Path) -> Deploy:
    """Makes functions as they are asked for, on the runtime layer in `layer`."""
    functions, logs = _client("lambda", endpoint), _client("logs", endpoint)
    published = functions.publish_layer_version(
        LayerName="runtime", Content={"ZipFile": _zipped(layer)}
    )
    made: dict[tuple[str, int], str] = {}

    def create(handler: str, timeout_s: int) -> str:
        name = f"conformance-{secrets.token_hex(3)}"
        functions.create_function(
            FunctionName=name,
            Runtime=f"python{base_image.PYTHON}",
            Role="arn:aws:iam::000000000000:role/none",
            Handler=handler,
            Code={"ZipFile": _zipped(FUNCTIONS)},
            Layers=[published["LayerVersionArn"]],
            Environment={"Variables": VARIABLES},
            Timeout=timeout_s,
        )
        functions.get_waiter("function_active_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 1}
        )
        return name

    def deploy(handler: str, *, timeout_s: float = 20.0) -> InvokedTarget:
        which = (handler, int(timeout_s))
        if which not in made:
            made[which] = create(*which)
        return InvokedTarget(functions, made[which], lambda: _logged(logs, made[which]))

    return deploy


def _logged(logs: Any, function: str) -> str:
    try:
        found = logs.filter_log_events(logGroupName=f"/aws/lambda/{function}")
    except logs.exceptions.ResourceNotFoundException:
        return ""
    return "\n".join(event["message"] for event in found["events"])


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


@contextmanager
def in_sam_local(folder: Path, layer: Path, *, address: str) -> Iterator[Deploy]:
    """`sam local start-lambda` with every function of the suite, each in a container that stays."""
    timeouts_s = {handler: (20,) for handler in HANDLERS} | {"sample.app": (20, SHORT_S)}
    names = {
        (handler, timeout_s): f"F{number}"
        for number, (handler, timeout_s) in enumerate(
            (handler, each) for handler, several in timeouts_s.items() for each in several
        )
    }
    template = folder / "template.yaml"
    template.write_text(yaml.safe_dump(_template(names, layer)))
    with sam.start_lambda(
        template=template,
        variables={},
        folder=folder,
        architecture=base_image.architecture(),
        address=address,
    ) as started:
        client = _client("lambda", started.url)

        def deploy(handler: str, *, timeout_s: float = 20.0) -> InvokedTarget:
            return InvokedTarget(client, names[handler, int(timeout_s)], started.log)

        yield deploy


def _template(names: Mapping[tuple[str, int], str], layer: Path) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "Runtime": {
            "Type": "AWS::Serverless::LayerVersion",
            "Properties": {"ContentUri": str(layer)},
        }
    }
    for (handler, timeout_s), name in names.items():
        resources[name] = {
            "Type": "AWS::Serverless::Function",
            "Properties": {
                "CodeUri": str(FUNCTIONS),
                "Handler": handler,
                "Runtime": f"python{base_image.PYTHON}",
                "Architectures": [base_image.architecture()],
                "Timeout": timeout_s,
                "MemorySize": 512,
                "Layers": [{"Ref": "Runtime"}],
                "Environment": {"Variables": VARIABLES},
            },
        }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Parameters": {"Architecture": {"Type": "String", "Default": "x86_64"}},
        "Resources": resources,
    }
