"""Our signature is the one that AWS's own SDK makes."""

from datetime import UTC, datetime
from unittest import mock

import pytest
from botocore import auth, awsrequest
from botocore.credentials import Credentials as BotoCredentials

from lambent.aws_signing import Credentials, credentials_from_endpoint, sign_post

NOW = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)


def botocore_headers(url: str, body: bytes, headers: dict[str, str], token: str) -> dict[str, str]:
    request = awsrequest.AWSRequest(method="POST", url=url, data=body, headers=headers)
    signer = auth.SigV4Auth(BotoCredentials("AKID", "SECRET", token or None), "lambda", "eu-west-1")
    with mock.patch.object(auth, "get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        signer.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@pytest.mark.parametrize("token", ["", "a-session-token"])
@pytest.mark.parametrize(
    "base", ["https://lambda.eu-west-1.amazonaws.com", "http://127.0.0.1:9001", "http://[::1]:9001"]
)
@pytest.mark.parametrize("function", ["lambent-step%3Alive", "plain", "with%20space~"])
def test_signature_equals_that_of_the_official_sdk(base: str, function: str, token: str) -> None:
    url = f"{base}/2015-03-31/functions/{function}/invocations"
    given = {"content-type": "application/json", "x-amz-invocation-type": "Event"}
    body = b'{"runs": ["01"]}'
    ours = sign_post(
        url,
        body,
        headers=given,
        credentials=Credentials("AKID", "SECRET", token),
        region="eu-west-1",
        service="lambda",
        now=NOW,
    )
    theirs = botocore_headers(url, body, given, token)
    assert ours["authorization"] == theirs["authorization"]
    assert ours["x-amz-date"] == theirs["x-amz-date"]
    assert ours.get("x-amz-security-token") == theirs.get("x-amz-security-token")


def test_credentials_of_the_endpoint_are_renewed_before_they_lapse() -> None:
    credentials = credentials_from_endpoint(
        {
            "AccessKeyId": "AKID",
            "SecretAccessKey": "SECRET",
            "Token": "T",
            "Expiration": "2026-11-03T04:10:00Z",
        }
    )
    assert credentials.stale_at(NOW)
    assert not credentials.stale_at(NOW.replace(minute=4))
    assert "SECRET" not in repr(credentials)
