"""Makes spans with OpenTelemetry's SDK; imported only where tracing is set."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, assert_never

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lambent.settings import Settings, Tracing, x_ray_header
from lambent.telemetry import log_fields, logger
from lambent.x_ray import XRayExporter, traceparent_of

_W3C: Final = TraceContextTextMapPropagator()
_EXPORT_S: Final = 2.0
_KEPT: Final = 2000


class Spans:
    """The spans of one environment, kept until the invocation that they belong to ends."""

    def __init__(self, settings: Settings) -> None:
        self._kept = _Kept()
        self._exporter = _exporter(settings)
        self._by_header = Tracing(settings.tracing) is Tracing.XRAY
        # Also of a trace that a caller began: a stranger's header must not make us keep them all.
        # It goes by the trace's id, so every function of ours decides the same.
        share = TraceIdRatioBased(settings.tracing_share)
        provider = TracerProvider(
            resource=Resource({"service.name": settings.stack_name}),
            sampler=ParentBased(share, remote_parent_sampled=share),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._kept)
        self._tracer = provider.get_tracer("lambent")

    def traceparent(self) -> str:
        """The span that goes on, as W3C writes it; empty outside of any."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier.get("traceparent", "")

    @contextmanager
    def under(self, traceparent: str) -> Iterator[None]:
        """What begins inside is a part of that; of nothing, where it is empty."""
        token = context.attach(_context(traceparent))
        try:
            yield
        finally:
            context.detach(token)

    @contextmanager
    def span(self, name: str, linked: str, attributes: Mapping[str, Any]) -> Iterator[_Open]:
        """A part of what goes on."""
        other = trace.get_current_span(_context(linked)).get_span_context()
        links = [Link(other)] if other.is_valid else []
        one = self._tracer.start_span(name, attributes=dict(attributes), links=links)
        with _current(one) as opened:
            yield opened

    @contextmanager
    def request(self, method: str, path: str, traceparent: str) -> Iterator[_Open]:
        """An HTTP request; named by no more of its path than says what it is about."""
        if self._by_header and (header := x_ray_header()):
            traceparent = traceparent_of(header)
        one = self._tracer.start_span(
            f"{method} /{path.lstrip('/').partition('/')[0]}",  # what follows may be a secret
            context=_context(traceparent),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        with _current(one) as opened:
            yield opened

    def begin(self, name: str, attributes: Mapping[str, Any]) -> _Open:
        """A call to elsewhere."""
        one = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=dict(attributes))
        return _Open(one)

    async def export(self) -> None:
        """Send what has ended, at most 2 s; what cannot be sent is dropped."""
        ended = self._kept.take()
        if not ended:
            return
        sending = asyncio.get_running_loop().run_in_executor(None, self._exporter.export, ended)
        done, _ = await asyncio.wait({sending}, timeout=_EXPORT_S)
        if not done or sending.exception() is not None:
            logger().warning("Spans could not be sent", **log_fields(spans=len(ended)))


class _Open:
    def __init__(self, one: Span) -> None:
        self._span = one

    def set(self, **attributes: Any) -> None:
        self._span.set_attributes(attributes)

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        self._span.end()


@contextmanager
def _current(one: Span) -> Iterator[_Open]:
    # Not the SDK's own: it would send along what an exception says, and that may hold a secret.
    opened = _Open(one)
    failed: Exception | None = None
    token = context.attach(trace.set_span_in_context(one))
    try:
        yield opened
    except Exception as error:
        failed = error
        raise
    finally:
        context.detach(token)
        opened.end(failed)


class _Kept(SpanProcessor):
    """No thread and no timer: between two invocations the process stands still."""

    def __init__(self) -> None:
        self._ended: deque[ReadableSpan] = deque(maxlen=_KEPT)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._ended.append(span)

    def take(self) -> Sequence[ReadableSpan]:
        ended = tuple(self._ended)
        self._ended.clear()
        return ended


def _context(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, context=Context())


def _exporter(settings: Settings) -> SpanExporter:
    match Tracing(settings.tracing):
        case Tracing.OTLP:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            base = settings.otel_exporter_otlp_endpoint.rstrip("/")
            return OTLPSpanExporter(
                endpoint=f"{base}/v1/traces",
                headers=dict(settings.otlp_headers),
                timeout=_EXPORT_S,
            )
        case Tracing.XRAY:
            return XRayExporter(settings.aws_xray_daemon_address, name=settings.stack_name)
        case Tracing.OFF:
            raise AssertionError("nothing is traced")
        case never:
            assert_never(never)
