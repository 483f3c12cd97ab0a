"""Signs small values that a browser keeps for us, and takes back only what it signed."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

_LONGEST: Final = 4096


def seal(secret: bytes, purpose: str, value: Mapping[str, Any]) -> str:
    """`<value>.<signature>`, both base64url. `purpose` keeps one kind from passing as another."""
    body = _encode(json.dumps(value, separators=(",", ":")).encode())
    return f"{body}.{_encode(sign(secret, purpose, body))}"


def unseal(secret: bytes, purpose: str, text: str) -> dict[str, Any] | None:
    """The value, or None for whatever was not sealed with this secret for this purpose."""
    if len(text) > _LONGEST or not text.isascii():
        return None
    body, _, signature = text.partition(".")
    # Compared as sent: base64 has several spellings of one value, and only ours is good.
    if not hmac.compare_digest(_encode(sign(secret, purpose, body)), signature):
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sign(secret: bytes, purpose: str, text: str) -> bytes:
    """HMAC-SHA-256 over the purpose and the text, which cannot run into each other."""
    return hmac.digest(secret, f"{purpose}\0{text}".encode(), "sha256")


def token_of(secret: bytes, purpose: str, text: str) -> str:
    """The same signature as text, for a form's hidden field."""
    return _encode(sign(secret, purpose, text))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
