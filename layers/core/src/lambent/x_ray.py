"""Sends spans to X-Ray's daemon, which Lambda runs beside each function with active tracing.

The documents: https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

_HEADER: Final = b'{"format": "json", "version": 1}\n'
_ROOT: Final = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_PARENT: Final = re.compile(r"[0-9a-f]{16}")
# What X-Ray allows in a name.
_ODD: Final = re.compile(r"[^\w\s.:/%&#=+\\\-@]")


def traceparent_of(header: str) -> str:
    """`Root=1-…;Parent=…;Sampled=1` as W3C writes it; empty where it names no parent."""
    parts = dict(part.strip().partition("=")[::2] for part in header.split(";"))
    root = _ROOT.fullmatch(parts.get("Root", ""))
    if root is None or not _PARENT.fullmatch(parts.get("Parent", "")):
        return ""
    return f"00-{root[1]}{root[2]}-{parts['Parent']}-0{int(parts.get('Sampled') == '1')}"


class XRayExporter(SpanExporter):
    """One datagram a span: the daemon stands on this very machine."""

    def __init__(self, address: str, *, name: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._name = name

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for span in spans:
                with suppress(OSError):  # one that is too long for a datagram
                    sending.sendto(_HEADER + self._document(span), self._address)
        return SpanExportResult.SUCCESS

    def _document(self, span: ReadableSpan) -> bytes:
        assert span.context is not None
        one: dict[str, Any] = {
            "id": f"{span.context.span_id:016x}",
            "trace_id": _trace_id(span.context.trace_id),
            "name": _ODD.sub("_", span.name if span.parent else self._name)[:200],
            "start_time": (span.start_time or 0) / 1e9,
            "end_time": (span.end_time or 0) / 1e9,
            "annotations": {
                key.replace(".", "_"): value for key, value in (span.attributes or {}).items()
            },
        }
        if span.parent is not None:
            one |= {"type": "subsegment", "parent_id": f"{span.parent.span_id:016x}"}
        if span.kind is SpanKind.CLIENT:
            one["namespace"] = "remote"
        if span.status.status_code is StatusCode.ERROR:
            one["fault"] = True
        if span.links:
            one["links"] = [
                {
                    "trace_id": _trace_id(link.context.trace_id),
                    "id": f"{link.context.span_id:016x}",
                    "attributes": {},
                }
                for link in span.links
            ]
        return json.dumps(one).encode()


def _trace_id(number: int) -> str:
    digits = f"{number:032x}"
    return f"1-{digits[:8]}-{digits[8:]}"
