"""Cold start inside the Lambda base image, against a FastAPI + Mangum hello world."""

from __future__ import annotations

import pytest

from local.aws.cold_start import Start, measure, show
from tests.aws.conftest import Built

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("docker")]
# Shares of the hello world's import time, its drivers included, in the same run. Of processor time:
# what else the machine does adds to both, and they differ by a tenth between two runs.
TARGETS = {"Step": 0.6, "Deliver": 0.6, "Poller": 0.6, "Chat": 1.25, "Gateway": 1.25, "Setup": 1.0}


@pytest.fixture(scope="module")
def starts(lambda_image: str, built: Built, report: list[str]) -> dict[str, Start]:
    measured = measure(built.folder, rounds=5)
    report += show(measured).splitlines()
    report.append(f"targets: {', '.join(f'{name} {share}' for name, share in TARGETS.items())}")
    return {each.name: each for each in measured}


@pytest.mark.parametrize("function", sorted(TARGETS))
def test_a_function_imports_little(starts: dict[str, Start], function: str) -> None:
    assert starts[function].share <= TARGETS[function], show(list(starts.values()))
