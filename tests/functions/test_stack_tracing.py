"""One trace from the caller's request over gateway and step function to the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from local.services import ScriptedModel
from local.services.script import Reply
from tests.collector import Collector
from tests.functions.stack import Stack, running_stack
from tests.functions.test_stack_digest import DIGEST, wait_until

OUTER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DESK = "00-11111111111111111111111111111111-2222222222222222-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made
        made.shutdown()


@pytest.fixture
def traced(
    tmp_path: Path, script: ScriptedModel, feed: str, collector: Collector
) -> Iterator[Stack]:
    environ = {
        "OLLAMA_HOST": script.host,
        "NEWS_FEEDS": feed,
        "NEWS_FEED_HOSTS": urlsplit(feed).netloc,
        "TRACING": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer c0llector",
    }
    with running_stack(tmp_path / "data", environ) as stack:
        yield stack


def test_request_run_steps_and_model_calls_are_one_trace_and_an_event_is_linked(
    traced: Stack, script: ScriptedModel, collector: Collector
) -> None:
    script.when(lambda asked: "Sum up the article" in str(asked.json), Reply.text("Colour."))
    with traced.client() as client:
        started = client.post("/runs", json=DIGEST, headers={"traceparent": OUTER})
        run_id = started.json()["id"]
        wait_until(client, run_id, "waiting")
        event = {"specversion": "1.0", "id": run_id, "source": "/desk", "subject": run_id}
        decided = {**event, "type": "news.digest.decided", "data": {"approved": True}}
        client.post("/events", json=decided, headers={"traceparent": DESK})
        wait_until(client, run_id, "completed")
    ends_s = time.monotonic() + 20
    while not collector.named("event news.digest.decided") or not collector.named("model call"):
        assert time.monotonic() < ends_s, [span.name for span in collector.spans]
        time.sleep(0.05)
    (request,) = collector.named("POST /runs")
    assert request.trace_id.hex() == OUTER.split("-")[1]
    assert request.parent_span_id.hex() == OUTER.split("-")[2]
    slices = [one for one in collector.under([request]) if one.name == "run news.digest"]
    steps = [one for one in collector.under(slices) if one.name.startswith("step ")]
    calls = collector.named("model call")
    assert calls
    assert all(call in collector.under(steps) for call in calls)
    (came,) = collector.named("event news.digest.decided")
    assert came in collector.under(slices)
    assert [link.trace_id.hex() for link in came.links] == [DESK.split("-")[1]]
    assert collector.keys == {"Bearer c0llector"}
