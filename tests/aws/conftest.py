"""What the tests of the AWS side share: Docker, a Lambda image, a real build, the stores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from local.aws import base_image, docker, sam
from local.aws.bytecode import find_python
from local.aws.commands import WORK, Missing
from local.aws.deploy import Address, Deployed, deploy
from local.aws.forward import Forwarder, forwarding
from local.aws.localstack import LocalStack
from local.sam import lending, write
from local.services import ModelHost, MongoHost, PostgresHost, ServiceError
from local.services.process import free_port
from tests.aws.target import TARGETS, Place, Target, aws_target
from tests.conftest import started
from tests.functions.stack import running_stack

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "tests" / "events"
BUILD = WORK / "build"


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

    @property
    def template(self) -> Path:
        return self.folder / "template.yaml"


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, report: list[str]) -> Built:
    """`sam build` for this machine's processor, once for the same sources."""
    if find_python(base_image.PYTHON) is None:
        request.getfixturevalue("lambda_image")  # which compiles then

    def build() -> Built:
        try:
            said = sam.ensure_built(BUILD, architecture=base_image.architecture())
            print(said)
            made = ("layer ", "function ")
            report.extend(line for line in said.splitlines() if line.startswith(made))
            return Built(BUILD)
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
    lambda_port: int
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

    def start_lambda(self) -> contextlib.AbstractContextManager[sam.StartLambda]:
        """`sam local start-lambda`; its functions reach it, and so each other."""
        return sam.start_lambda(
            template=self.template,
            variables=self.variables,
            folder=self.folder,
            architecture=base_image.architecture(),
            port=self.lambda_port,
        )

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
    services = {
        "POSTGRES_DSN": dsn,
        "MONGO_URI": mongo_server.uri,
        "MONGO_DB_NAME": name,
        "OLLAMA_HOST": model_server.host,
    }
    port = free_port()
    with lending(services, port=port) as variables:
        folder = tmp_path_factory.mktemp("sam")
        plain = Containers(built.template, variables, folder, port)
        admin_key = plain.invoke("Setup", recorded("setup")).json()["admin_key"]
        write(folder, variables, key=admin_key)
        yield replace(plain, admin_key=admin_key)
    postgres_server.drop_database(name)
    mongo_server.drop_database(name)


@dataclass(frozen=True, slots=True)
class Cloud:
    """The built template, deployed to a LocalStack and set up."""

    deployed: Deployed
    line: Forwarder

    def invoke(self, function: str, event: dict[str, Any]) -> Any:
        answer = self.deployed.client("lambda").invoke(
            FunctionName=f"lambent-{function}", Qualifier="live", Payload=json.dumps(event)
        )
        said = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, said
        return said


@pytest.fixture(scope="session")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    def start() -> LocalStack:
        try:
            return LocalStack.start(tmp_path_factory.mktemp("localstack"))
        except Missing as missing:
            raise or_service_error(missing) from missing

    with started(start) as running:
        yield running


@pytest.fixture(scope="session")
def cloud(
    built: Built,
    postgres_server: PostgresHost,
    mongo_server: MongoHost,
    model_server: ModelHost,
    localstack: LocalStack,
) -> Iterator[Cloud]:
    name = "localstack"
    with forwarding("127.0.0.1", called="127.0.0.1") as line:
        parameters = {
            "MongoUri": mongo_server.uri,
            "MongoDbName": name,
            "PostgresDsn": postgres_server.create_database(name),
            "OllamaHost": line.reachable(model_server.host),
            "BreakerOpenS": "5",  # longer than a refusal takes on a busy machine
        }
        yield Cloud(
            deploy(built.template, endpoint=localstack.endpoint, parameters=parameters), line
        )
    postgres_server.drop_database(name)
    mongo_server.drop_database(name)


REPORT = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> list[str]:
    """Lines that stand at the end of the run, however its tests went."""
    return pytestconfig.stash.setdefault(REPORT, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if lines := config.stash.get(REPORT, []):
        terminalreporter.section("what was built and measured")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", choices=TARGETS, help="where the acceptance suite is run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without `--target`: locally, and in LocalStack among the tests that need it."""
    if "target" not in metafunc.fixturenames:
        return
    asked = metafunc.config.getoption("--target", default=None)
    in_cloud = [pytest.mark.aws, pytest.mark.xdist_group("localstack")]
    places = [asked] if asked else ["local", pytest.param("localstack", marks=in_cloud)]
    metafunc.parametrize("target", places, indirect=True, scope="session")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The platform at the place that the parameter names, with a key of every scope."""
    match request.param:
        case "local":
            plain: Target = request.getfixturevalue("local_target")
        case "localstack":
            plain = cloud_target(request.getfixturevalue("cloud"))
        case _:
            plain = aws_target()
    # A key without much of a limit: the tests ask more often than people do.
    scopes = ["chat", "runs", "events", "admin"]
    yield replace(plain, admin_key=plain.new_key(scopes=scopes, limit=100_000))
    plain.end_keys()


@pytest.fixture(scope="session")
def local_target(
    model_server: ModelHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    with forwarding("127.0.0.1", called="127.0.0.1") as line:
        environ = {"OLLAMA_HOST": line.reachable(model_server.host), "BREAKER_OPEN_S": "1"}
        with running_stack(tmp_path_factory.mktemp("acceptance") / "data", environ) as stack:
            place = Place(stack.url)
            yield Target("local", place, place, stack.admin_key, line)


def cloud_target(cloud: Cloud) -> Target:
    assert cloud.deployed.admin_key

    def place(address: Address) -> Place:
        return Place(address.base, {"Host": address.host})  # no DNS knows it

    chat, gateway = place(cloud.deployed.chat), place(cloud.deployed.gateway)
    return Target("localstack", chat, gateway, cloud.deployed.admin_key, cloud.line)
