"""HTTP events as Function URLs and REST APIs write them."""

from __future__ import annotations

from typing import Any


def url_event(path: str = "/hello", **changes: Any) -> dict[str, Any]:
    """A Function URL's event, payload 2.0; `changes` replace top-level members."""
    path, _, query = path.partition("?")
    method = changes.pop("method", "GET")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "abc.lambda-url.eu-west-1.on.aws", "x-forwarded-proto": "https"},
        "requestContext": {
            "stage": "$default",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.9",
                "userAgent": "test",
            },
        },
        "isBase64Encoded": False,
    } | changes


def rest_event(path: str = "/hello", **changes: Any) -> dict[str, Any]:
    """An API Gateway REST API's event, payload 1.0, on stage `prod`."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": changes.pop("method", "GET"),
        "headers": {"Host": "api.example.com"},
        "multiValueHeaders": {"Host": ["api.example.com"], "X-Two": ["1", "2"]},
        "queryStringParameters": {"a": "2"},
        "multiValueQueryStringParameters": {"a": ["1", "2"], "b": ["x y"]},
        "requestContext": {
            "stage": "prod",
            "path": f"/prod{path}",
            "protocol": "HTTP/1.1",
            "identity": {"sourceIp": "203.0.113.9"},
        },
        "body": None,
        "isBase64Encoded": False,
    } | changes
