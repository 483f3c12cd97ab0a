"""Sessions of the admin pages: opened with a key, dead as soon as the key is or they are ended."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from lambent.admission import sealed
from lambent.admission.answers import ALL_SCOPES
from lambent.admission.decisions import (
    AdmissionRequest,
    Decision,
    Principal,
    Refused,
    Scope,
)
from lambent.admission.gate import ANONYMOUS, Gate
from lambent.admission.keys import parse_credential
from lambent.admission.statements import statement
from lambent.clock import Clock
from lambent.errors import Forbidden, NotFound, RateLimited, StoreUnavailable, Unauthenticated
from lambent.postgres import Postgres

SESSION_S: Final = 12 * 3600
TOKEN_S: Final = 300
TOKEN_PREFIX: Final = "lamp_"  # noqa: S105 - no password: what every token begins with
# Ten failures of one address at once, then one a minute.
_TRIES: Final = 10
_STEP_S: Final = 60.0
_SLACK_S: Final = _STEP_S * (_TRIES - 1)


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """Somebody who is signed in. `csrf` belongs into every form, `text` into the cookie."""

    id: str
    principal: Principal
    text: str
    csrf: str
    ends_s: int

    @property
    def may_change(self) -> bool:
        """False for the read-only role."""
        return self.principal.may(Scope.ADMIN)


class Secret:
    """What signs sessions and page tokens: made by setup, read once an environment."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._bytes: bytes | None = None

    async def get(self) -> bytes:
        """Raises `StoreUnavailable`, also where setup has not been run."""
        if self._bytes is None:
            row = await self._postgres.fetch_one(statement("session_secret"))
            if row is None:
                raise StoreUnavailable("Setup has not been run.", retry_after_s=5.0)
            self._bytes = bytes(row.secret)
        return self._bytes


class Sessions:
    """Every call raises `StoreUnavailable` when Postgres is gone."""

    def __init__(
        self,
        postgres: Postgres,
        *,
        gate: Gate,
        secret: Secret,
        clock: Clock,
        auth_enabled: bool,
    ) -> None:
        self._postgres = postgres
        self._gate = gate
        self._secret = secret
        self._clock = clock
        self.auth_enabled = auth_enabled

    async def sign_in(self, key: str, *, address: str) -> Session:
        """A new session for the holder of an admin key.

        Raises `Unauthenticated`, `Forbidden` for a key without `admin` or `admin:read`, and
        `RateLimited` where this address has failed too often.
        """
        if not self.auth_enabled:
            return await self._open({"k": None})
        await self._count_try(address)
        decision = await self._gate.admit(
            AdmissionRequest(credential=key, scope=Scope.ADMIN_READ, limited=False)
        )
        if isinstance(decision, Refused):
            raise decision.error
        credential = parse_credential(key)
        row = await _row(self._postgres, credential.key_id)
        if row is None:
            raise Unauthenticated()
        await self._postgres.fetch(
            statement("sign_in_forgive"), {"address": address, "step_s": _STEP_S}
        )
        mark = _mark(credential.secret_hash)
        return await self._open({"k": row.id, "e": row.session_epoch, "f": mark}, row)

    async def resume(self, text: str) -> Session | None:
        """The session of a cookie, looked up anew each time: None once anything has ended it."""
        value = sealed.unseal(await self._secret.get(), "session", text)
        if value is None or value["x"] <= self._clock.now().timestamp():
            return None
        if value["k"] is None:
            return None if self.auth_enabled else await self._session(value, text, None)
        if not self.auth_enabled:
            return None
        row = await _row(self._postgres, value["k"], value["n"])
        if row is None or not _opened_by(row, value):
            return None
        session = await self._session(value, text, row)
        return session if session.principal.may(Scope.ADMIN_READ) else None

    async def end(self, session: Session) -> None:
        """Sign out this one session, copies of its cookie too.

        Without authentication there is nothing to end: everybody may open another one.
        """
        if session.principal.key_id is not None:
            values = {"session": session.id, "ends_s": session.ends_s}
            await self._postgres.fetch(statement("session_end"), values)

    async def end_all(self, key_id: str) -> None:
        """Sign out every session of the key. Raises `NotFound`."""
        row = None
        if "\0" not in key_id:
            row = await self._postgres.fetch_one(statement("session_end_all"), {"id": key_id})
        if row is None:
            raise NotFound("No such key.")

    async def page_token(self, session: Session) -> str:
        """A credential for scripts of a page, good for five minutes: reading, and for who may
        change things and chat also that, with what agents and their tools may then do in that
        person's name. It never reaches what administers, and is dead once the session is."""
        who = session.principal
        scopes = {Scope.ADMIN_READ}
        if session.may_change and who.may(Scope.CHAT):
            scopes |= {one for one in (Scope.CHAT, Scope.RUNS, Scope.EVENTS) if who.may(one)}
        value = {
            "k": who.key_id,
            "n": who.key_name,
            "c": who.client,
            "s": sorted(scope.value for scope in scopes),
            "x": int(self._clock.now().timestamp()) + TOKEN_S,
            "i": session.id,
        }
        secret = await self._secret.get()
        opened = sealed.unseal(secret, "session", session.text) or {}
        value |= {name: opened[name] for name in ("e", "f") if name in opened}
        return TOKEN_PREFIX + sealed.seal(secret, "page", value)

    async def _open(self, value: dict[str, Any], row: Any = None) -> Session:
        ends_s = int(self._clock.now().timestamp()) + SESSION_S
        # A fresh name each time: nothing that a browser held before becomes a session.
        value |= {"x": ends_s, "n": secrets.token_urlsafe(16)}
        text = sealed.seal(await self._secret.get(), "session", value)
        return await self._session(value, text, row)

    async def _session(self, value: dict[str, Any], text: str, row: Any) -> Session:
        principal = Principal(None, None, ANONYMOUS, ALL_SCOPES)
        if row is not None:
            principal = Principal(row.id, row.name, row.client, frozenset(row.scopes))
        csrf = sealed.token_of(await self._secret.get(), "csrf", text)
        return Session(value["n"], principal, text, csrf, int(value["x"]))

    async def _count_try(self, address: str) -> None:
        values = {"address": address[:100], "step_s": _STEP_S, "slack_s": _SLACK_S}
        if await self._postgres.fetch_one(statement("sign_in_try"), values) is not None:
            return
        row = await self._postgres.fetch_one(statement("sign_in_wait"), values)
        wait_s = float(row.wait_s) if row is not None else 0.0
        raise RateLimited("Too many failed sign-ins.", retry_after_s=max(1.0, wait_s))


class SessionGate(Gate):
    """The gate that also knows the tokens of admin pages."""

    def __init__(self, postgres: Postgres, *, secret: Secret, clock: Clock, **parts: Any) -> None:
        super().__init__(postgres, clock=clock, **parts)
        self._secret = secret
        self._now = clock.now

    async def admit(self, request: AdmissionRequest) -> Decision:
        """As the gate does; a page token stands for its client while its session is open, which
        is one more look at Postgres."""
        if request.on_behalf_of is not None or not is_page_token(request.credential):
            return await super().admit(request)
        text = (request.credential or "").removeprefix(TOKEN_PREFIX)
        principal = await self._holder(text, leaving=request.leaving)
        if isinstance(principal, Refused):
            return principal
        if request.scope is not None and not principal.may(request.scope):
            return Refused(Forbidden(f"This page may not do {request.scope}."), None, principal)
        trusted = replace(request, credential=None, on_behalf_of=principal.client)
        decision = await super().admit(trusted)
        if isinstance(decision, Refused) and decision.principal is None:
            return decision
        return replace(decision, principal=principal)

    async def _holder(self, text: str, *, leaving: bool) -> Principal | Refused:
        try:
            value = sealed.unseal(await self._secret.get(), "page", text)
            good = value is not None and value["x"] > self._now().timestamp()
            # A page that signs out leaves only after that.
            good = good and (leaving or await self._is_open(value or {}))
        except StoreUnavailable as error:
            return Refused(error, None)
        if value is None or not good:
            return Refused(Unauthenticated("The page's token is not good any more."), None)
        return Principal(value["k"], value["n"], value["c"], frozenset(value["s"]))

    async def _is_open(self, value: Mapping[str, Any]) -> bool:
        # Without authentication there is nothing to end. A token without a session was made by a
        # gateway of before, which a deploy leaves for five minutes.
        if value["k"] is None or "i" not in value:
            return True
        row = await _row(self._postgres, value["k"], value["i"])
        return row is not None and _opened_by(row, value)


def is_page_token(credential: str | None) -> bool:
    """Whether it claims to be a page's; only the gate says whether it is a good one."""
    return (credential or "").startswith(TOKEN_PREFIX)


async def _row(postgres: Postgres, key_id: str, session: str = "") -> Any:
    """The key, if it is good and this session of it was not ended: both in one look."""
    values = {"id": key_id, "session": session}
    return await postgres.fetch_one(statement("session_key"), values)


def _opened_by(row: Any, value: Mapping[str, Any]) -> bool:
    """Whether nobody signed out everywhere since, and the secret that opened it is still good."""
    marks = _marks(row) if row.session_epoch == value["e"] else []
    return any(hmac.compare_digest(mark, value["f"]) for mark in marks)


def _marks(row: Any) -> list[str]:
    return [_mark(bytes(one)) for one in (row.secret_hash, row.previous_hash) if one is not None]


def _mark(secret_hash: bytes) -> str:
    # Of the hash of the secret: a cookie says nothing that helps to find either.
    return hashlib.sha256(b"session" + secret_hash).hexdigest()[:24]
