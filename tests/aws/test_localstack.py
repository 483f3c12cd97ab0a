"""The built template itself, deployed by LocalStack's CloudFormation and used over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from lambent import secret_references
from lambent.errors import ConfigError
from local.aws.commands import Missing
from local.aws.deploy import Address, Deployed, deploy
from local.aws.localstack import LocalStack
from local.services import ModelHost, MongoHost, PostgresHost
from tests.aws.conftest import Built, or_service_error, recorded
from tests.conftest import started

pytestmark = pytest.mark.aws
TICK_LIMIT_S = 100.0
RUN_LIMIT_S = 60.0
READY_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Cloud:
    """A deployed stack and what was given to it."""

    deployed: Deployed
    parameters: dict[str, str]

    @property
    def key(self) -> str:
        assert self.deployed.admin_key
        return self.deployed.admin_key

    def call(self, address: Address, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Host": address.host, "Authorization": f"Bearer {self.key}"}
        headers |= options.pop("headers", {})
        return httpx.request(method, address.base + path, headers=headers, timeout=120, **options)

    def wait_for(self, run_id: str, until: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The run, once `until` says so."""
        seen: dict[str, Any] = {}
        ends_s = time.monotonic() + RUN_LIMIT_S
        while time.monotonic() < ends_s:
            seen = self.call(self.deployed.gateway, "GET", f"/runs/{run_id}").json()
            if until(seen):
                return seen
            time.sleep(0.3)
        raise AssertionError(f"the run stands still: {seen}")

    def invoke(self, function: str, event: dict[str, Any]) -> Any:
        answer = self.deployed.client("lambda").invoke(
            FunctionName=f"lambent-{function}", Qualifier="live", Payload=json.dumps(event)
        )
        said = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, said
        return said


@pytest.fixture(scope="session")
def cloud(
    built: Built,
    postgres_server: PostgresHost,
    mongo_server: MongoHost,
    model_server: ModelHost,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cloud]:
    name = "localstack"

    def start() -> LocalStack:
        try:
            return LocalStack.start(tmp_path_factory.mktemp("localstack"))
        except Missing as missing:
            raise or_service_error(missing) from missing

    with started(start) as localstack:
        parameters = {
            "MongoUri": mongo_server.uri,
            "MongoDbName": name,
            "PostgresDsn": postgres_server.create_database(name),
            "OllamaHost": model_server.host,
        }
        yield Cloud(
            deploy(built.template, endpoint=localstack.endpoint, parameters=parameters), parameters
        )
    postgres_server.drop_database(name)
    mongo_server.drop_database(name)


def test_the_gateway_reaches_every_store(cloud: Cloud) -> None:
    ends_s = time.monotonic() + READY_LIMIT_S
    while True:  # a first ping opens connections, which a busy machine may not do in time
        answer = cloud.call(cloud.deployed.gateway, "GET", "/health/ready")
        if answer.status_code == 200 or time.monotonic() > ends_s:
            break
        time.sleep(0.5)
    assert answer.status_code == 200, answer.text


def test_a_chat_answers_through_its_function_url(cloud: Cloud) -> None:
    body = {"agent": "chat", "input": "Say hello."}
    answer = cloud.call(cloud.deployed.chat, "POST", "/chat/stream", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")


def test_a_request_without_a_key_is_refused(cloud: Cloud) -> None:
    chat = cloud.deployed.chat
    answer = httpx.post(
        f"{chat.base}/chat", headers={"Host": chat.host}, json={"agent": "chat", "input": "Hi"}
    )
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_key_made_at_the_gateway_opens_the_chat(cloud: Cloud) -> None:
    body = {"name": "smoke", "client": "smoke", "scopes": ["chat"]}
    made = cloud.call(cloud.deployed.gateway, "POST", "/keys", json=body)
    assert made.status_code == 201, made.text
    chat = cloud.deployed.chat
    answer = httpx.post(
        f"{chat.base}/chat",
        headers={"Host": chat.host, "Authorization": f"Bearer {made.json()['key']}"},
        json={"agent": "chat", "input": "Say hello."},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text


def test_functions_take_their_recorded_events(cloud: Cloud) -> None:
    assert cloud.invoke("step", recorded("step")) == {"advanced": 0}
    assert isinstance(cloud.invoke("deliver", recorded("deliver")), dict)


def test_setup_may_be_invoked_again(cloud: Cloud) -> None:
    again = cloud.invoke("setup", recorded("setup"))
    assert again["applied"] == []
    assert again["admin_key"] is None


def test_a_run_is_nudged_waits_for_an_event_and_ends(cloud: Cloud) -> None:
    """Over HTTP alone: gateway, step and deliver invoke each other through LocalStack."""
    asked = {"feeds": ["http://127.0.0.1:9/feed"], "approval": True}
    body = {"workflow": "news.digest", "input": asked}
    run = cloud.call(cloud.deployed.gateway, "POST", "/runs", json=body).json()
    cloud.wait_for(run["id"], lambda seen: seen["status"] == "waiting" and seen.get("waits"))
    event = {
        "specversion": "1.0",
        "id": run["id"],
        "source": "/tests/localstack",
        "type": "news.digest.decided",
        "subject": run["id"],
        "data": {"approved": True},
    }
    headers = {"Content-Type": "application/cloudevents+json"}
    content = json.dumps(event)
    sent = cloud.call(cloud.deployed.gateway, "POST", "/events", content=content, headers=headers)
    assert sent.status_code == 202, sent.text
    ended = cloud.wait_for(run["id"], lambda seen: seen["status"] == "completed")
    assert ended["output"]["status"] == "published"


def test_secrets_are_looked_up_where_settings_name_them(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.deployed.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    manager, systems = cloud.deployed.client("secretsmanager"), cloud.deployed.client("ssm")
    manager.create_secret(Name="stores", SecretString='{"dsn": "postgresql://one"}')
    systems.put_parameter(Name="/lambent/key", Value="k1", Type="SecureString")
    assert secret_references.resolve("secretsmanager:stores#dsn") == "postgresql://one"
    assert secret_references.resolve("ssm:/lambent/key") == "k1"
    manager.put_secret_value(SecretId="stores", SecretString='{"dsn": "postgresql://two"}')
    assert secret_references.resolve("secretsmanager:stores#dsn") == "postgresql://one"
    assert secret_references.forget()
    assert secret_references.resolve("secretsmanager:stores#dsn") == "postgresql://two"
    with pytest.raises(ConfigError, match="no such secret"):
        secret_references.resolve("secretsmanager:absent")
    with pytest.raises(ConfigError, match="no JSON object with that key"):
        secret_references.resolve("secretsmanager:stores#absent")


def test_the_rule_starts_the_poller(cloud: Cloud) -> None:
    """EventBridge's minute passes for real: nothing here invokes the poller."""
    logs = cloud.deployed.client("logs")
    until_s = time.monotonic() + TICK_LIMIT_S
    while time.monotonic() < until_s:
        streams = logs.describe_log_streams(logGroupName="/aws/lambda/lambent-poller")
        if streams["logStreams"]:
            return
        time.sleep(1)
    pytest.fail("the poller was not started within its minute")
