"""Metrics: what the template's alarms and dashboard watch is what the code writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from lambent.agents.agent import Chunk
from lambent.chat.live_turn import LiveTurn
from lambent.http.observed import Observed
from lambent.metrics import DIMENSION, NAMESPACE, Metric, Recorder, flush
from local.emulator.template import read_template

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (ROOT / "template.yaml").read_text()
LAMBENT = ROOT / "layers" / "core" / "src" / "lambent"


def written(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    recorder.flush()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def alarms() -> list[str]:
    """The text of each alarm on our own namespace."""
    parts = re.split(r"\n(?=  \w+:\n)", TEMPLATE)
    return [part for part in parts if f"Namespace: {NAMESPACE}\n" in part]


def shown() -> set[tuple[str, str]]:
    """Name and dimension of each metric of ours on the dashboard."""
    return set(re.findall(rf'\["{NAMESPACE}", "(\w+)", "(\w+)"', TEMPLATE))


def test_each_alarm_watches_a_metric_that_is_written_under_its_one_dimension() -> None:
    assert len(alarms()) == 8
    for alarm in alarms():
        names = re.findall(r"MetricName: (\w+)", alarm)
        assert set(names) <= set(Metric)
        dimension = r"Dimensions:\n +- \{Name: (\w+), Value: !Ref AWS::StackName\}"
        assert re.findall(dimension, alarm) == [DIMENSION] * len(names)


def test_the_dashboard_shows_only_metrics_that_are_written() -> None:
    assert len(shown()) > 15
    assert {name for name, _ in shown()} <= set(Metric)
    assert {dimension for _, dimension in shown()} == {DIMENSION}


def test_the_stack_of_the_metrics_is_the_one_that_the_alarms_name() -> None:
    assert "STACK_NAME: !Ref AWS::StackName" in TEMPLATE
    for function in read_template(ROOT / "template.yaml").functions:
        assert function.environment["STACK_NAME"] == "lambent"


def test_every_metric_is_noted_somewhere() -> None:
    code = "".join(path.read_text() for path in LAMBENT.rglob("*.py") if path.name != "metrics.py")
    assert [one.name for one in Metric if f"Metric.{one.name}" not in code] == []


def test_an_invocation_writes_one_line_with_sums_times_and_the_worst_lag(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = Recorder()
    recorder.stack = "prod"
    for value in (2.0, 1.0):
        recorder.note(Metric.PROMPT_TOKENS, value)
        recorder.note(Metric.STEP_TIME, value)
        recorder.note(Metric.DUE_LAG, value)
    (line,) = written(recorder, capsys)
    assert (line["PromptTokens"], line["StepMs"], line["DueLagSeconds"]) == ([3], [2, 1], [2])
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == (NAMESPACE, [[DIMENSION]])
    assert line["stack"] == "prod"
    units = {one["Name"]: one["Unit"] for one in directive["Metrics"]}
    assert units == {"PromptTokens": "Count", "StepMs": "Milliseconds", "DueLagSeconds": "Seconds"}
    assert written(recorder, capsys) == []


def test_no_line_holds_more_values_than_cloudwatch_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = Recorder()
    for value in range(250):
        recorder.note(Metric.STEP_TIME, value)
    lines = written(recorder, capsys)
    assert max(len(line["StepMs"]) for line in lines) <= 100
    assert [value for line in lines for value in line["StepMs"]] == list(range(250))


def test_who_never_writes_does_not_grow(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    for value in range(5000):
        recorder.note(Metric.STEP_TIME, value)
    assert sum(len(line["StepMs"]) for line in written(recorder, capsys)) == 1000


def test_no_name_in_the_environment_adds_a_dimension(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "other")
    recorder = Recorder()
    recorder.note(Metric.REQUESTS)
    (line,) = written(recorder, capsys)
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [[DIMENSION]]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, None),
        (404, Metric.REQUESTS_REFUSED),
        (501, Metric.REQUESTS_REFUSED),
        (503, Metric.REQUESTS_UNAVAILABLE),
        (500, Metric.REQUESTS_FAILED),
        (None, Metric.REQUESTS_FAILED),
    ],
)
async def test_a_request_is_counted_by_its_outcome(
    status: int | None, outcome: Metric | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if status is None:
            raise ValueError("unforeseen")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    flush()
    capsys.readouterr()
    observed = cast(Any, Observed(app, failed=Metric.CHAT_FAILED))
    transport = httpx.ASGITransport(app=observed, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/")
    line = json.loads(capsys.readouterr().out)
    counted = {name for name in line if "Requests" in name}
    ours = [Metric.CHAT_FAILED] if outcome is Metric.REQUESTS_FAILED else []
    assert counted == {Metric.REQUESTS, *([outcome] if outcome else []), *ours}


async def test_a_turn_that_ends_by_a_fault_of_ours_is_counted_though_its_reader_may_come_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def work(live: LiveTurn) -> None:
        await live.put(Chunk(delta="so far"))
        raise ValueError("unforeseen")

    async def book() -> None:
        """There is nothing to book."""

    flush()
    capsys.readouterr()
    live = LiveTurn(id="turn", client="c", limit=None, work=work, book=book)
    while not live.ended:
        await live.take(within_s=10)
    await live.close()
    flush()
    assert '"StreamsBroken":[1' in capsys.readouterr().out.replace(" ", "")
