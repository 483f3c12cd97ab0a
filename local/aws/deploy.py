"""Deploys a built template through CloudFormation: what `sam deploy` does, to LocalStack.

LocalStack skips custom resources in silence, so `setup` is invoked here, once the stack stands.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lambent.deploy import digest
from local.aws.transform import read_template, transform
from local.emulator.intrinsics import Resolver, Unresolved

REGION = "us-east-1"
STACK = "lambent"
_BUCKET = "lambent-artifacts"
_CODE = ("CodeUri", "ContentUri")
_WAIT = {"Delay": 1, "MaxAttempts": 180}


@dataclass(frozen=True, slots=True)
class Address:
    """A Function URL: where to connect, and the host to ask for (no DNS knows it)."""

    base: str
    host: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack that stands and is set up. `admin_key` is None where it was made before."""

    endpoint: str
    chat: Address
    gateway: Address
    admin_key: str | None

    def client(self, service: str) -> Any:
        """A boto3 client of the place the stack was deployed to."""
        return _client(service, self.endpoint)


def deploy(template: Path, *, endpoint: str, parameters: Mapping[str, str]) -> Deployed:
    """Upload, create the stack (anew, if it stands), run setup. RuntimeError with the reason."""
    s3, cloudformation = _client("s3", endpoint), _client("cloudformation", endpoint)
    s3.create_bucket(Bucket=_BUCKET)
    source = read_template(template)
    code = _upload(source, template.parent, s3)
    values = {name: str(body["Default"]) for name, body in source["Parameters"].items()
              if "Default" in body} | dict(parameters)  # fmt: skip
    made = transform(source, parameters=values, code=code, region=REGION)
    body = _with_digest(made, values)
    # Longer than what a call takes: it goes through the bucket, as with `sam deploy`.
    s3.put_object(Bucket=_BUCKET, Key="template.json", Body=body)
    arguments = {
        "StackName": STACK,
        "TemplateURL": f"{endpoint}/{_BUCKET}/template.json",
        "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()],
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    }
    # LocalStack's update cannot move an alias to a new version: it rolls back, to nothing. What has
    # to last is in the stores.
    cloudformation.delete_stack(StackName=STACK)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK, WaiterConfig=_WAIT)
    cloudformation.create_stack(**arguments)
    waiter = cloudformation.get_waiter("stack_create_complete")
    try:
        waiter.wait(StackName=STACK, WaiterConfig=_WAIT)
    except Exception as error:
        raise RuntimeError(f"the stack does not stand:\n{_reasons(cloudformation)}") from error
    outputs = {each["OutputKey"]: each["OutputValue"] for each in
               cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]["Outputs"]}  # fmt: skip
    return Deployed(
        endpoint=endpoint,
        chat=_address(outputs["ChatUrl"], endpoint),
        gateway=_address(outputs["GatewayUrl"], endpoint),
        admin_key=_set_up(_client("lambda", endpoint)),
    )


def _client(service: str, endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}, read_timeout=300),
    )


def _upload(source: Mapping[str, Any], folder: Path, s3: Any) -> dict[str, str]:
    """Zip and upload every built folder; logical id to address."""
    places = {}
    for logical_id, resource in source["Resources"].items():
        for name in _CODE:
            if name not in resource.get("Properties", {}):
                continue
            key = f"{logical_id}.zip"
            built = folder / resource["Properties"][name]
            s3.put_object(Bucket=_BUCKET, Key=key, Body=_zipped(built))
            places[logical_id] = f"s3://{_BUCKET}/{key}"
    return places


def _zipped(folder: Path) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def _with_digest(template: Mapping[str, Any], values: Mapping[str, str]) -> str:
    """The template's text, with what `setup` would answer if LocalStack asked it."""
    resolver = Resolver(template, parameters=values, references=Unresolved,
                        attributes=lambda owner, name: Unresolved(f"{owner}.{name}"))  # fmt: skip
    said = digest(resolver.resolve(template["Resources"]["Settings"]["Properties"]))
    asked = json.dumps({"Fn::GetAtt": ["Settings", "Digest"]})
    return json.dumps(template).replace(asked, json.dumps(said))


def _address(url: str, endpoint: str) -> Address:
    return Address(base=endpoint, host=urlsplit(url).netloc)


def _set_up(functions: Any) -> str | None:
    answer = functions.invoke(
        FunctionName=f"{STACK}-setup", Qualifier="live", Payload=json.dumps({"action": "setup"})
    )
    said = answer["Payload"].read()
    if "FunctionError" in answer:
        raise RuntimeError(f"setup failed: {said.decode(errors='replace')}")
    key = json.loads(said).get("admin_key")
    return str(key) if key else None


def _reasons(cloudformation: Any) -> str:
    events = cloudformation.describe_stack_events(StackName=STACK)["StackEvents"]
    return "\n".join(f"{e['LogicalResourceId']}: {e.get('ResourceStatusReason', '')}"
                     for e in events if "FAILED" in e["ResourceStatus"])  # fmt: skip
