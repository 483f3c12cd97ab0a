"""Builds a Function URL's event (payload format 2.0) and reads the answers that fit it."""

import base64
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from local.emulator.exchange import Request
from local.emulator.template import Function

_TEXT_TYPES = ("application/json", "application/javascript", "application/xml")
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "upgrade", "te"})
_REMAPPED = frozenset({"www-authenticate", "date", "server", "host"})
DELIMITER = b"\0" * 8
PRELUDE_LIMIT_BYTES = 16 * 1024


class BadAnswer(Exception):
    """The function answered what a Function URL cannot turn into HTTP."""


@dataclass(frozen=True, slots=True)
class HttpHead:
    """Status and headers of an answer; cookies are already among the headers."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = field(default_factory=tuple)


def build_event(
    request: Request, body: bytes, *, function: Function, domain: str, source_ip: str, scheme: str
) -> dict[str, Any]:
    """The event of one HTTP request, shaped as AWS shapes it."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += [cookie.strip() for cookie in value.split(";") if cookie.strip()]
        elif name not in _HOP_BY_HOP:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    headers.pop("expect", None)
    host = headers.get("host", domain)
    headers.setdefault("x-forwarded-for", source_ip)
    headers.setdefault("x-forwarded-proto", scheme)
    headers.setdefault("x-forwarded-port", host.rpartition(":")[2] if ":" in host else "80")
    now_s = time.time()
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": function.short,
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": f"HTTP/{request.http_version}",
                "sourceIp": source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now_s)),
            "timeEpoch": int(now_s * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if request.query:
        event["queryStringParameters"] = _query_parameters(request.query)
    if body:
        event["body"], event["isBase64Encoded"] = _event_body(body, headers.get("content-type", ""))
    return event


def read_prelude(prelude: bytes) -> HttpHead:
    """The JSON in front of a streamed answer."""
    try:
        document = json.loads(prelude)
    except ValueError as error:
        raise BadAnswer("the prelude is not JSON") from error
    if not isinstance(document, dict):
        raise BadAnswer("the prelude is no JSON object")
    return _head(document, default_type="application/octet-stream")


def read_buffered(payload: bytes) -> tuple[HttpHead, bytes]:
    """A whole answer: format 2.0 where it has a status code, else any JSON value as the body."""
    try:
        document = json.loads(payload)
    except ValueError as error:
        raise BadAnswer("the answer is not JSON") from error
    if not isinstance(document, dict) or "statusCode" not in document:
        body = document.encode() if isinstance(document, str) else payload
        return HttpHead(headers=(("content-type", "application/json"),)), body
    head = _head(document, default_type="application/json")
    content = document.get("body")
    if content is None:
        return head, b""
    text = content if isinstance(content, str) else json.dumps(content)
    if document.get("isBase64Encoded"):
        try:
            return head, base64.b64decode(text, validate=True)
        except ValueError as error:
            raise BadAnswer("the body is not Base64") from error
    return head, text.encode()


def _head(document: Mapping[str, Any], *, default_type: str) -> HttpHead:
    status = document.get("statusCode", 200)
    if isinstance(status, str) and status.isdigit():
        status = int(status)
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise BadAnswer(f"statusCode {status!r} is no HTTP status")
    fields = document.get("headers") or {}
    cookies = document.get("cookies") or []
    if not isinstance(fields, dict) or not isinstance(cookies, list):
        raise BadAnswer("headers must be an object and cookies a list")
    headers = [
        (f"x-amzn-Remapped-{name}" if name.lower() in _REMAPPED else name, _header_text(value))
        for name, value in fields.items()
        if name.lower() not in _HOP_BY_HOP
    ]
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("content-type", default_type))
    headers += [("set-cookie", str(cookie)) for cookie in cookies]
    return HttpHead(status, tuple(headers))


def _header_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _query_parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


def _event_body(body: bytes, content_type: str) -> tuple[str, bool]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml")):
        try:
            return body.decode("utf-8"), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True
