"""Says how far a caller reaches: their own client's things, or, for an admin, everybody's."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from lambent.admission.decisions import Principal, Scope
from lambent.errors import Forbidden

Authorize = Callable[[Scope], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Reach:
    """`own`: the client that new things belong to. `client`: whose things may be reached; None
    is everybody's. `key`: the name of the caller's key."""

    own: str
    client: str | None
    key: str = ""

    @property
    def signature(self) -> dict[str, str]:
        """Who asks, as it is kept with what they changed."""
        return {"client": self.own, "key": self.key}

    def named(self, signature: Mapping[str, str] | None) -> str | None:
        """Who that was, as far as this caller may know; None where nobody is on record."""
        if signature is None:
            return None
        if self.client not in (None, signature["client"]):
            return "an operator"
        return signature["key"] or signature["client"]


def reading(authorize: Authorize, scope: Scope) -> Callable[[Request], Awaitable[Reach]]:
    """A dependency for what changes nothing: the scope, or `admin:read` for everybody's."""
    return _reaching(authorize, scope, Scope.ADMIN_READ)


def changing(authorize: Authorize, scope: Scope) -> Callable[[Request], Awaitable[Reach]]:
    """A dependency for what changes something: the scope, or `admin` for everybody's."""
    return _reaching(authorize, scope, Scope.ADMIN)


def _reaching(
    authorize: Authorize, scope: Scope, widest: Scope
) -> Callable[[Request], Awaitable[Reach]]:
    narrow, wide = authorize(scope), authorize(widest)

    async def dependency(request: Request) -> Reach:
        try:
            admin: Principal = await wide(request)
        except Forbidden:
            principal: Principal = await narrow(request)
            return Reach(principal.client, principal.client, principal.key_name or "")
        return Reach(admin.client, None, admin.key_name or "")

    return dependency
