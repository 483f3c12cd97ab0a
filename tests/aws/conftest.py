"""What the tests of the AWS side share: Docker, a Lambda image, a real build, the stores."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from local.aws import base_image, docker, sam
from local.aws.commands import Missing
from local.aws.forward import forwarding
from local.services import ModelHost, MongoHost, PostgresHost, ServiceError
from tests.conftest import started

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "tests" / "events"
BUILD = ROOT / ".lambent" / "aws" / "build"


def recorded(name: str, key: str = "KEY") -> dict[str, Any]:
    """A recorded event, with a real API key in place of the recorded one."""
    text = (EVENTS / f"{name}.json").read_text()
    event: dict[str, Any] = json.loads(text.replace("Bearer KEY", f"Bearer {key}"))
    return event


def or_service_error(missing: Missing) -> ServiceError:
    """So that a missing tool skips on a laptop and fails with CI=true, as services do."""
    return ServiceError(str(missing))


@dataclass(frozen=True, slots=True)
class Built:
    """The result of a real `sam build`."""

    folder: Path
    log: str

    @property
    def template(self) -> Path:
        return self.folder / "template.yaml"


@pytest.fixture(scope="session")
def built() -> Built:
    """`sam build` for this machine's processor, into a folder that is kept for the next run."""

    def build() -> Built:
        try:
            return Built(BUILD, sam.build(BUILD, architecture=base_image.architecture()))
        except Missing as missing:
            raise or_service_error(missing) from missing

    return started(build)


@pytest.fixture(scope="session")
def lambda_image() -> Iterator[str]:
    """The Lambda base image's name, with a Docker daemon for as long as tests need it."""
    daemon = docker.running()

    def ensure() -> str:
        try:
            daemon.__enter__()
            return base_image.ensure_image()
        except Missing as missing:
            raise or_service_error(missing) from missing

    yield started(ensure)
    daemon.__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Containers:
    """Functions as `sam local invoke` runs them, against this machine's stores."""

    template: Path
    variables: dict[str, str]
    folder: Path
    admin_key: str = ""

    def invoke(self, function: str, event: dict[str, Any]) -> sam.Invocation:
        done = sam.invoke(
            function,
            event,
            template=self.template,
            variables=self.variables,
            folder=self.folder,
            architecture=base_image.architecture(),
        )
        print(f"sam local invoke {function}: {done.answer[:200]!r}\n{done.log}")
        return done

    def with_variables(self, **changed: str) -> Containers:
        return replace(self, variables={**self.variables, **changed})


@pytest.fixture(scope="session")
def containers(
    lambda_image: str,
    built: Built,
    postgres_server: PostgresHost,
    mongo_server: MongoHost,
    model_server: ModelHost,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Containers]:
    """Set up by the Setup function itself, which is invoked first."""
    name = "sam_local"
    dsn = postgres_server.create_database(name)
    with forwarding(bridge_address()) as forwarder:
        variables = {
            "POSTGRES_DSN": forwarder.reachable(dsn),
            "MONGO_URI": forwarder.reachable(mongo_server.uri),
            "MONGO_DB_NAME": name,
            "OLLAMA_HOST": forwarder.reachable(model_server.host),
        }
        folder = tmp_path_factory.mktemp("sam")
        plain = Containers(built.template, variables, folder)
        answer = plain.invoke("Setup", recorded("setup")).json()
        yield replace(plain, admin_key=answer["admin_key"])
    postgres_server.drop_database(name)
    mongo_server.drop_database(name)


def bridge_address() -> str:
    """This machine's address on Docker's default network."""
    gateway = "{{(index .IPAM.Config 0).Gateway}}"
    shown = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", gateway],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return shown.stdout.strip() or "172.17.0.1"
