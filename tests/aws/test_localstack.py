"""What only LocalStack shows of the deployed template: Lambda's, EventBridge's and secrets' APIs.

What users see of it, over HTTP, is in test_acceptance.py.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from lambent import secret_references
from lambent.errors import ConfigError
from local.aws.deploy import Deployed, deploy
from local.aws.localstack import LocalStack
from local.services import MongoHost, PostgresHost
from tests.aws.conftest import Built, Cloud, recorded

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("localstack")]
TICK_LIMIT_S = 100.0


def test_functions_take_their_recorded_events(cloud: Cloud) -> None:
    assert cloud.invoke("step", recorded("step")) == {"advanced": 0}
    assert isinstance(cloud.invoke("deliver", recorded("deliver")), dict)


def test_setup_may_be_invoked_again(cloud: Cloud) -> None:
    again = cloud.invoke("setup", recorded("setup"))
    assert again["applied"] == []
    assert again["admin_key"] is None


def test_a_second_deploy_brings_new_code_and_settings(
    built: Built, tmp_path: Path, postgres_server: PostgresHost, mongo_server: MongoHost
) -> None:
    """In a LocalStack of its own, because the addresses of the stack change."""
    folder = shutil.copytree(built.folder, tmp_path / "build")
    name = "localstack_twice"
    parameters = {"MongoUri": mongo_server.uri, "MongoDbName": name,
                  "PostgresDsn": postgres_server.create_database(name)}  # fmt: skip
    with LocalStack.start(tmp_path / "localstack") as running:

        def deployed(**changed: str) -> tuple[Deployed, str, str]:
            stack = deploy(folder / "template.yaml", endpoint=running.endpoint,
                           parameters=parameters | changed)  # fmt: skip
            functions = stack.client("lambda")
            live = functions.get_alias(FunctionName="lambent-chat", Name="live")["FunctionVersion"]
            found = functions.get_function_configuration(
                FunctionName="lambent-chat", Qualifier=live
            )
            return stack, found["CodeSha256"], found["Environment"]["Variables"]["LOG_LEVEL"]

        first, code, level = deployed()
        assert (bool(first.admin_key), level) == (True, "")
        handler = folder / "Chat" / "handler.py"
        handler.write_text(handler.read_text() + "# Other code.\n")
        second, new_code, level = deployed(LogLevel="DEBUG")
        assert (second.admin_key, level) == (None, "DEBUG")
        assert new_code != code
    postgres_server.drop_database(name)
    mongo_server.drop_database(name)


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
