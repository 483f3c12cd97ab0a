"""Cold start inside the Lambda base image, against a FastAPI + Mangum hello world."""

from __future__ import annotations

import pytest

from local.aws.cold_start import Start, measure, show
from tests.aws.conftest import Built

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("docker")]
# What is wanted: shares of the hello world's import time, its drivers included, in the same run.
TARGETS = {"Step": 0.6, "Deliver": 0.6, "Poller": 0.6, "Chat": 1.25, "Gateway": 1.25, "Setup": 1.0}

# Even shares of a processor's time differ by a tenth between two runs on a shared machine: the
# report tells the figure beside its target, and a test only what must have a cause.
_NOISE = 1.25


@pytest.fixture(scope="module")
def starts(lambda_image: str, built: Built, report: list[str]) -> dict[str, Start]:
    measured = measure(built.folder, rounds=5)
    report += show(measured).splitlines()
    report.append(f"targets: {', '.join(f'{name} {share}' for name, share in TARGETS.items())}")
    return {each.name: each for each in measured}


@pytest.mark.parametrize("function", sorted(TARGETS))
def test_a_function_imports_little(starts: dict[str, Start], function: str) -> None:
    assert starts[function].share <= TARGETS[function] * _NOISE, show(list(starts.values()))
