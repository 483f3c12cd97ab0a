"""HTTP events (payload versions 1 and 2) as ASGI scopes and bodies."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast
from urllib.parse import quote, unquote, urlencode

from lambda_stream.failure import RuntimeFault

_PATH_SAFE = "/!$&'()*+,;=:@%-._~"
_QUERY_SAFE = _PATH_SAFE + '?[]{}|\\^`"<>'


class Payload(StrEnum):
    """Which service wrote the event, as far as it matters here."""

    FUNCTION_URL = "2.0"
    REST = "1.0"


@dataclass(frozen=True, slots=True)
class HTTPEvent:
    """One request: its scope without the parts that belong to the invocation, and its body."""

    payload: Payload
    scope: dict[str, Any]
    body: bytes


def payload_of(event: Any) -> Payload | None:
    """The payload version of an HTTP event; None for every other event."""
    if not isinstance(event, dict):
        return None
    about = event.get("requestContext")
    if not isinstance(about, dict):
        return None
    if isinstance(http := about.get("http"), dict) and "method" in http and "rawPath" in event:
        return Payload.FUNCTION_URL
    # An Application Load Balancer writes `httpMethod` too, but it neither streams nor has a stage.
    if isinstance(event.get("httpMethod"), str) and "path" in event and "elb" not in about:
        return Payload.REST
    return None


def read_http_event(event: Mapping[str, Any], payload: Payload) -> HTTPEvent:
    """Raises RuntimeFault where the event does not keep to its own shape."""
    try:
        scope = _scope_2(event) if payload is Payload.FUNCTION_URL else _scope_1(event)
        return HTTPEvent(payload, scope, _body(event))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RuntimeFault(
            "Runtime.UnmarshalError", f"The HTTP event is malformed: {error!r}"
        ) from error


def _scope_2(event: Mapping[str, Any]) -> dict[str, Any]:
    about = event["requestContext"]
    http = about["http"]
    headers = [
        (name.lower().encode("latin-1"), _latin(value))
        for name, value in (event.get("headers") or {}).items()
        if name.lower() != "cookie" or not event.get("cookies")
    ]
    if cookies := event.get("cookies"):
        headers.append((b"cookie", _latin("; ".join(cookies))))
    stage = about.get("stage") or "$default"
    path = event["rawPath"] or "/"
    prefix = "" if stage == "$default" else f"/{stage}"
    root = prefix if prefix and (path == prefix or path.startswith(prefix + "/")) else ""
    return _scope(
        method=http["method"],
        path=path,
        root_path=root,
        query=_quoted(event.get("rawQueryString") or "", _QUERY_SAFE),
        headers=headers,
        protocol=http.get("protocol"),
        source_ip=http.get("sourceIp"),
    )


def _scope_1(event: Mapping[str, Any]) -> dict[str, Any]:
    about = event["requestContext"]
    path = event["path"] or "/"
    # The context's path also holds the stage; the event's own does not.
    whole = about.get("path") or path
    if path != "/" and whole.endswith(path):
        root = whole[: -len(path)]
    elif path == "/":
        root = whole.rstrip("/")
    else:
        root, whole = "", path
    query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    return _scope(
        method=event["httpMethod"],
        path=whole if whole.startswith("/") else f"/{whole}",
        root_path=root,
        query=urlencode(query, doseq=True).encode("ascii"),
        headers=list(_headers_1(event)),
        protocol=about.get("protocol"),
        source_ip=(about.get("identity") or {}).get("sourceIp"),
    )


def _headers_1(event: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    many = event.get("multiValueHeaders") or {}
    for name, values in many.items():
        for value in values:
            yield name.lower().encode("latin-1"), _latin(value)
    if not many:
        for name, value in (event.get("headers") or {}).items():
            yield name.lower().encode("latin-1"), _latin(value)


def _scope(
    *,
    method: str,
    path: str,
    root_path: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    protocol: str | None,
    source_ip: str | None,
) -> dict[str, Any]:
    first = dict(reversed(headers))
    scheme = first.get(b"x-forwarded-proto", b"https").decode("latin-1")
    port = first.get(b"x-forwarded-port", b"")
    host = first.get(b"host", b"").decode("latin-1").rpartition("]")
    name = host[0] + host[1] + host[2].partition(":")[0]
    version = (protocol or "HTTP/1.1").rpartition("/")[2]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version if version in ("1.0", "1.1", "2", "3") else "1.1",
        "method": method.upper(),
        "scheme": scheme if scheme in ("http", "https") else "https",
        "path": unquote(path),
        "raw_path": _quoted(path, _PATH_SAFE),
        "query_string": query,
        "root_path": unquote(root_path),
        "headers": headers,
        "client": (source_ip, 0) if source_ip else None,
        "server": (name, int(port) if port.isdigit() else 443) if name else None,
        "extensions": {},
    }


def _quoted(text: str, safe: str) -> bytes:
    """`text` as it stood in the request line; what cannot have stood there is quoted."""
    return quote(text, safe=safe).encode("ascii")


def _latin(value: Any) -> bytes:
    text = cast(str, value)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        return binascii.a2b_base64(body, strict_mode=True)
    return cast(bytes, body.encode("utf-8", "surrogatepass"))
