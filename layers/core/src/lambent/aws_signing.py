"""Signs a request to AWS (Signature Version 4) and finds the credentials to sign it with."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlsplit

from lambent.clock import FAR_FUTURE

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
# Renewed while the old ones are still good, so that no request is ever signed with lapsed ones.
_RENEW_BEFORE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary or lasting AWS credentials; the secrets stay out of every `repr`."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires_at: datetime = FAR_FUTURE

    def stale_at(self, now: datetime) -> bool:
        """Whether they should be fetched anew."""
        return now >= self.expires_at - _RENEW_BEFORE


def credentials_from_endpoint(answer: Mapping[str, Any]) -> Credentials:
    """What a container credentials endpoint says (Lambda after a SnapStart restore, ECS)."""
    return Credentials(
        access_key_id=answer["AccessKeyId"],
        secret_access_key=answer["SecretAccessKey"],
        session_token=answer.get("Token", ""),
        expires_at=datetime.fromisoformat(answer["Expiration"].replace("Z", "+00:00")),
    )


def sign_post(
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    credentials: Credentials,
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """The headers to send: those given, and the signature over all of them.

    `url` has its path percent-encoded as it goes over the wire and no query. Source: AWS General
    Reference, "Create a signed AWS API request".
    """
    parts = urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    signed = {name.lower(): value.strip() for name, value in headers.items()}
    signed |= {"host": _host(parts.hostname or "", parts.port, parts.scheme), "x-amz-date": stamp}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            "POST",
            # Every service but S3 encodes the path a second time in what it signs.
            quote(parts.path or "/", safe="/-_.~"),
            "",
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, "\n".join([_ALGORITHM, stamp, scope, digest])).hex()
    credential = f"{credentials.access_key_id}/{scope}"
    signed["authorization"] = (
        f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def _host(name: str, port: int | None, scheme: str) -> str:
    bracketed = f"[{name}]" if ":" in name else name
    default = 443 if scheme == "https" else 80
    return bracketed if port in (None, default) else f"{bracketed}:{port}"
