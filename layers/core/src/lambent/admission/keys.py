"""API keys: made, listed, rotated and revoked; and read from what a caller sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from lambent.admission.decisions import Scope
from lambent.admission.statements import statement
from lambent.clock import Clock
from lambent.errors import ConfigError, Conflict, NotFound, Unauthenticated, Unprocessable
from lambent.ids import new_ulid, random_base62
from lambent.postgres import Postgres

# 43 of 62 characters are 256 random bits: nothing to guess, so a fast hash is enough, and how long
# the server takes to compare two digests tells nothing that helps to find a secret.
_SECRET_LENGTH: Final = 43
_CREDENTIAL: Final = re.compile(r"lam_([0-9A-Za-z]{1,32})_([0-9A-Za-z]{32,128})", re.ASCII)
_LONGEST: Final = 4 + 32 + 1 + 128
_GIVEN_SECRET: Final = re.compile(r"(?:lam_admin_)?([0-9A-Za-z]{32,128})", re.ASCII)
_KEY_ID: Final = re.compile(r"[0-9A-Za-z]{1,32}", re.ASCII)
_ADMIN_ID: Final = "admin"
_LONGEST_NAME: Final = 100
_LONGEST_GRACE_S: Final = 30 * 86400.0
# Postgres keeps later instants, which no datetime here can hold: such a row could not be read.
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


class Unset(Enum):
    """Says that a field is left as it is, where None means something."""

    YES = "unset"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller proved to know: the key's id and the SHA-256 of its secret."""

    key_id: str
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key, without its secret. `limit` is requests a window, None for the default."""

    id: str
    name: str
    client: str
    scopes: tuple[Scope, ...]
    limit: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, repr=False)
class NewKey:
    """A key and its secret text `lam_<id>_<secret>`, which is shown this one time."""

    key: ApiKey
    text: str


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Newest first; `cursor` is what to ask for the next page with, None on the last."""

    keys: tuple[ApiKey, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, repr=False)
class AdminKey:
    """The first admin key. `text` is set only where this call made or took over the secret."""

    key_id: str
    text: str | None


def credential_of(authorization: str | None, api_key: str | None) -> str | None:
    """The credential in `Authorization: Bearer ...` or, without that header, `X-API-Key`.

    Another scheme than Bearer gives an empty credential: something was sent, and it is not good.
    """
    if authorization is None:
        return api_key
    scheme, _, rest = authorization.partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""


def parse_credential(text: str | None) -> Credential:
    """Raises `Unauthenticated` for whatever cannot be a key, before any I/O."""
    match = None
    if text is not None and len(text) <= _LONGEST:
        match = _CREDENTIAL.fullmatch(text)
    if match is None:
        raise Unauthenticated()
    return Credential(match[1], _hash(match[2]))


class KeyStore:
    """The keys in Postgres. Every call raises `StoreUnavailable` when Postgres is gone."""

    def __init__(self, postgres: Postgres, *, clock: Clock) -> None:
        self._postgres = postgres
        self._clock = clock

    async def create(
        self,
        client: str,
        name: str,
        *,
        scopes: Collection[Scope],
        limit: int | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key for `client`; names need not be unique. Raises `Unprocessable`."""
        self._check(client, name, scopes=scopes, limit=limit, expires_at=expires_at)
        secret = random_base62(_SECRET_LENGTH)
        values = {
            "id": new_ulid(self._clock),
            "secret_hash": _hash(secret),
            "name": name,
            "client": client,
            "scopes": sorted({Scope(scope).value for scope in scopes}),
            "quota": limit,
            "expires_at": expires_at,
        }
        row = await self._postgres.fetch_one(statement("key_insert"), values)
        return NewKey(_key(row), f"lam_{row.id}_{secret}")

    async def get(self, key_id: str) -> ApiKey:
        """Raises `NotFound`."""
        return await self._one("key_get", key_id)

    async def list(
        self, *, client: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> KeyPage:
        """A page of keys, of one client or of all, revoked and expired ones included."""
        if cursor is not None and not _KEY_ID.fullmatch(cursor):
            raise _invalid({"cursor": "must be a cursor of an earlier answer"})
        if client is not None and not _is_name(client):
            return KeyPage((), None)
        rows = await self._postgres.fetch(
            statement("key_list"), {"client": client, "cursor": cursor, "limit": limit + 1}
        )
        keys = tuple(_key(row) for row in rows[:limit])
        return KeyPage(keys, keys[-1].id if len(rows) > limit else None)

    async def change(
        self,
        key_id: str,
        *,
        name: str | None = None,
        limit: int | Unset | None = Unset.YES,
        expires_at: datetime | Unset | None = Unset.YES,
    ) -> ApiKey:
        """Change what is given; None takes a limit or an expiry away.

        Raises `NotFound`, `Unprocessable`.
        """
        set_quota, set_expiry = limit is not Unset.YES, expires_at is not Unset.YES
        quota = None if isinstance(limit, Unset) else limit
        expiry = None if isinstance(expires_at, Unset) else expires_at
        self._check("-", name or "-", scopes=list(Scope), limit=quota, expires_at=expiry)
        values = {
            "name": name,
            "set_quota": set_quota,
            "quota": quota,
            "set_expiry": set_expiry,
            "expires_at": expiry,
        }
        return await self._one("key_change", key_id, **values)

    async def rotate(self, key_id: str, *, grace_s: float = 0.0) -> NewKey:
        """A new secret; the present one stays good for `grace_s` more seconds.

        Only one old secret is kept: rotating again ends an earlier one's grace. Raises `NotFound`,
        `Conflict` for a revoked key, `Unprocessable` for a grace over 30 days.
        """
        if not 0 <= grace_s <= _LONGEST_GRACE_S:
            raise _invalid({"grace_s": f"must be from 0 to {_LONGEST_GRACE_S:g}"})
        if not _KEY_ID.fullmatch(key_id):
            raise NotFound("No such key.")
        secret = random_base62(_SECRET_LENGTH)
        values = {"id": key_id, "secret_hash": _hash(secret), "grace_s": float(grace_s)}
        row = await self._postgres.fetch_one(statement("key_rotate"), values)
        if row is None:
            await self.get(key_id)
            raise Conflict("The key is revoked.")
        return NewKey(_key(row), f"lam_{row.id}_{secret}")

    async def revoke(self, key_id: str) -> ApiKey:
        """From now on the key is unknown to the gate; revoking twice is the same as once."""
        return await self._one("key_revoke", key_id)

    async def ensure_admin(self, *, secret: str | None = None, replaces: bool = True) -> AdminKey:
        """The first admin key, made once however many ask at once; it holds every scope.

        `secret` is the secret part, or all of `lam_admin_<secret>`, kept elsewhere (Secrets
        Manager): its hash is stored, in place of the present one if it `replaces` that. Raises
        `ConfigError` for one that is too weak to be a key.
        """
        match = _GIVEN_SECRET.fullmatch(secret) if secret is not None else None
        if secret is not None and match is None:
            raise ConfigError("the admin secret must be 32 to 128 characters of 0-9A-Za-z")
        plain = match[1] if match else random_base62(_SECRET_LENGTH)
        values = {
            "id": _ADMIN_ID,
            "secret_hash": _hash(plain),
            "name": "first admin key",
            "client": _ADMIN_ID,
            "scopes": [scope.value for scope in Scope],
            "given": match is not None and replaces,
        }
        row = await self._postgres.fetch_one(statement("key_ensure_admin"), values)
        return AdminKey(_ADMIN_ID, f"lam_{_ADMIN_ID}_{plain}" if row is not None else None)

    async def has_admin(self) -> bool:
        """Whether the first admin key was ever made; a revoked one counts, it is not to return."""
        query = statement("key_get")
        return await self._postgres.fetch_one(query, {"id": _ADMIN_ID}) is not None

    async def _one(self, query: str, key_id: str, /, **values: Any) -> ApiKey:
        row = None
        if _KEY_ID.fullmatch(key_id):
            row = await self._postgres.fetch_one(statement(query), {"id": key_id, **values})
        if row is None:
            raise NotFound("No such key.")
        return _key(row)

    def _check(
        self,
        client: str,
        name: str,
        *,
        scopes: Collection[Scope],
        limit: int | None,
        expires_at: datetime | None,
    ) -> None:
        naming = f"1 to {_LONGEST_NAME} printable characters"
        known = {scope.value for scope in Scope}
        problems = {
            "client": naming if not _is_name(client) else None,
            "name": naming if not _is_name(name) else None,
            "scopes": f"one or more of {', '.join(sorted(known))}"
            if not scopes or not known.issuperset(scopes)
            else None,
            "limit": "1 or more" if limit is not None and not 1 <= limit <= 1_000_000 else None,
            "expires_at": "an instant in the future, before the year 9999"
            if expires_at is not None and not self._clock.now() < expires_at < _LATEST
            else None,
        }
        wrong = {field: f"must be {problem}" for field, problem in problems.items() if problem}
        if wrong:
            raise _invalid(wrong)


def _invalid(problems: Mapping[str, str]) -> Unprocessable:
    errors = [{"field": field, "message": message} for field, message in problems.items()]
    return Unprocessable(f"Not valid: {', '.join(problems)}.", fields={"errors": errors})


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= _LONGEST_NAME and text.isprintable() and not text.isspace()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("ascii")).digest()


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        client=row.client,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        limit=row.quota,
        created_at=row.created_at.astimezone(UTC),
        expires_at=_utc(row.expires_at),
        revoked_at=_utc(row.revoked_at),
        last_used_at=_utc(row.last_used_at),
    )


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.astimezone(UTC)
