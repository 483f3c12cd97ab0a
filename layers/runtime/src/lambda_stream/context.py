"""The context object of an invocation, with the attributes of AWS's own."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace
from typing import Any

from lambda_stream.failure import RuntimeFault
from lambda_stream.runtime_api import Invocation

_CLIENT_FIELDS = (
    "installation_id",
    "app_title",
    "app_version_name",
    "app_version_code",
    "app_package_name",
)


class LambdaContext:
    """Who was invoked, for whom, and how long it may take."""

    def __init__(self, invocation: Invocation) -> None:
        self.aws_request_id = invocation.request_id
        self.invoked_function_arn = invocation.function_arn
        self.tenant_id = invocation.tenant_id or None
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.client_context = _client_context(invocation.client_context)
        identity = _object(invocation.cognito_identity, "Cognito Identity")
        self.identity = SimpleNamespace(
            cognito_identity_id=identity.get("cognitoIdentityId"),
            cognito_identity_pool_id=identity.get("cognitoIdentityPoolId"),
        )
        self._deadline_ms = invocation.deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the invocation; never negative."""
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def __repr__(self) -> str:
        return (
            f"LambdaContext(aws_request_id={self.aws_request_id!r}, "
            f"function_name={self.function_name!r}, function_version={self.function_version!r})"
        )


def _client_context(text: str) -> SimpleNamespace | None:
    if not text:
        return None
    given = _object(text, "Client Context")
    client = given.get("client")
    if isinstance(client, dict):
        client = SimpleNamespace(**{name: client.get(name) for name in _CLIENT_FIELDS})
    return SimpleNamespace(custom=given.get("custom"), env=given.get("env"), client=client)


def _object(text: str, name: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        given = json.loads(text)
    except ValueError as error:
        raise RuntimeFault(
            "Runtime.LambdaContextUnmarshalError", f"Unable to parse {name} JSON: {error}"
        ) from None
    return given if isinstance(given, dict) else {}
