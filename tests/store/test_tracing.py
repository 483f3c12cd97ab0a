"""Spans that hang together whoever finds the work; and nothing of them where they are off."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import httpx
import pytest

from lambent import tracing
from lambent.engine.registry import Registry
from lambent.http.observed import Observed
from lambent.invocation import reporting
from lambent.metrics import Metric
from lambent.settings import load_settings
from lambent.testing import WorkflowTest
from lambent.x_ray import traceparent_of
from tests.collector import Collector

STORES = {"MONGO_URI": "mongodb://h", "POSTGRES_DSN": "postgresql://h/d"}
LAMBDAS = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a"


def settings(**environ: str) -> Any:
    return load_settings({**STORES, **environ})


async def test_work_that_the_poller_found_is_a_part_of_the_request_that_made_it(
    mongo_uri: str, collector: Collector
) -> None:
    flows = Registry()

    @flows.workflow("outer")
    async def outer(step: Any, input: Any) -> Any:
        await step.sleep(3600)
        child = await step.start("inner", await step.do("one", lambda: 1))
        return await child

    @flows.workflow("inner")
    async def inner(step: Any, input: Any) -> Any:
        return await step.do("two", lambda: input)

    async with WorkflowTest(mongo_uri, workflows=flows) as test:
        async with reporting():
            with tracing.request_span("POST", "/runs", {}):
                run_id = await test.start("outer", {})
        # Nothing tells this task of the request: all that is left of it is in the documents.
        async with reporting():
            assert await test.finish(run_id) == 1
    (request,) = collector.named("POST /runs")
    slices = collector.under([request])
    assert {one.name for one in slices} == {"run outer"}
    assert len(slices) > 1
    children = [one for one in collector.under(slices) if one.name == "run inner"]
    assert [one.name for one in collector.under(children)] == ["step two"]
    assert {one.trace_id for one in collector.spans} == {request.trace_id}


async def test_a_collector_that_is_gone_harms_nobody(collector: Collector) -> None:
    collector.shutdown()
    collector.server_close()
    async with reporting():
        with tracing.span("lost"):
            pass


async def test_a_failure_is_told_without_its_words(collector: Collector) -> None:
    async with reporting():
        with pytest.raises(ValueError), tracing.span("fails"):  # noqa: PT011
            raise ValueError("postgresql://ada:s3cret@db")
    (failed,) = collector.named("fails")
    assert failed.status.message == "ValueError"
    assert "s3cret" not in str(failed)


async def test_what_is_not_sampled_is_not_sent(collector: Collector) -> None:
    off = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    async with reporting():
        with tracing.request_span("GET", "/runs", off), tracing.span("inside"):
            assert tracing.carried()["traceparent"].endswith("-00")
    assert collector.spans == []


async def test_a_stranger_cannot_make_us_keep_more_than_our_share(collector: Collector) -> None:
    rare = settings(TRACING="otlp", TRACING_SHARE="0", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    tracing.configure(rare)
    sampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    async with reporting():
        with tracing.request_span("GET", "/runs", sampled):
            pass
    assert collector.spans == []


async def test_x_ray_gets_a_document_a_span_under_lambdas_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(10)
        address = f"127.0.0.1:{daemon.getsockname()[1]}"
        monkeypatch.setenv("_X_AMZN_TRACE_ID", LAMBDAS)
        tracing.configure(settings(TRACING="xray", AWS_XRAY_DAEMON_ADDRESS=address))
        try:
            app: Any = Observed(answering, failed=Metric.CHAT_FAILED)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
                await client.get("http://test/runs/1")
        finally:
            tracing.configure(settings())
        head, _, body = daemon.recv(65536).partition(b"\n")
    assert json.loads(head) == {"format": "json", "version": 1}
    document = json.loads(body)
    assert document["trace_id"] == "1-5759e988-bd862e3fe1be46a994272793"
    assert document["parent_id"] == "53995c3f42cd8ad8"
    assert document["name"] == "GET /runs"
    assert document["annotations"]["http_response_status_code"] == 204
    assert document["start_time"] <= document["end_time"]


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("header", ["", LAMBDAS.partition(";")[0], "Root=x;Parent=y"])
def test_a_header_of_x_ray_without_a_parent_is_none(header: str) -> None:
    assert traceparent_of(header) == ""


def test_nothing_of_opentelemetry_is_imported_where_tracing_is_off() -> None:
    program = (
        "import sys, lambent.app; lambent.app.platform(); lambent.app.chat_app()\n"
        "print([one for one in sys.modules if one.startswith('opentelemetry')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=STORES, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
