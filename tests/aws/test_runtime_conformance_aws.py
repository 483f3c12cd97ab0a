"""The runtime's conformance suite told to LocalStack and to `sam local`: the same stories.

How each is known to differ stands with the others' differences, in tests/runtime/targets.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.aws.docker import bridge_address
from local.aws.localstack import LocalStack
from tests.aws.conftest import Built
from tests.aws.runtime_targets import in_localstack, in_sam_local
from tests.runtime import test_runtime_conformance as suite
from tests.runtime.contract import Deploy, Difference
from tests.runtime.targets import DIFFERENCES

pytestmark = pytest.mark.aws
globals().update({name: story for name, story in vars(suite).items() if name.startswith("test_")})


@pytest.fixture(scope="session")
def runtime_in_localstack(built: Built, localstack: LocalStack) -> Deploy:
    return in_localstack(localstack.endpoint, built.folder / "RuntimeLayer")


@pytest.fixture(scope="session")
def runtime_in_sam_local(
    lambda_image: str, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deploy]:
    folder = tmp_path_factory.mktemp("conformance")
    layer = built.folder / "RuntimeLayer"
    with in_sam_local(folder, layer, address=bridge_address()) as deploy:
        yield deploy


@pytest.fixture(params=["localstack", "sam-local"])
def differences(request: pytest.FixtureRequest) -> frozenset[Difference]:
    return DIFFERENCES[request.param]


@pytest.fixture
def deploy(request: pytest.FixtureRequest, differences: frozenset[Difference]) -> Deploy:
    name = request.node.callspec.params["differences"].replace("-", "_")
    found: Deploy = request.getfixturevalue(f"runtime_in_{name}")
    return found
