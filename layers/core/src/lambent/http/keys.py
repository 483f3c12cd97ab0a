"""Keys over HTTP, for admins: create, list, rotate, revoke."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from lambent.admission.budgets import BudgetStore, Kind, check_budgets
from lambent.admission.decisions import Principal, Scope
from lambent.admission.keys import ApiKey, KeyStore, NewKey, Unset
from lambent.http.audited import note_audit
from lambent.http.usage import EdgesBody, edges_of

_SECRET = Field(
    description="The key itself. It is shown this one time; only its hash is kept.",
    examples=["lam_01JD8T0Q6V5Z_9cXb…"],
)


class KeyRequest(BaseModel):
    """A key to make. Several keys may belong to one client, who has one limit over all of them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "laptop",
                    "client": "team-search",
                    "scopes": ["chat", "runs"],
                    "limit": 60,
                    "expires_at": "2099-01-01T00:00:00Z",
                }
            ]
        },
    )

    name: str = Field(min_length=1, max_length=100, examples=["laptop"])
    client: str = Field(min_length=1, max_length=100, examples=["team-search"])
    scopes: list[Scope] = Field(min_length=1, examples=[["chat", "runs"]])
    limit: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=1_000_000,
        description="Requests a minute, in place of the default.",
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="The instant from which the key is good no more."
    )


class KeyPatch(BaseModel):
    """What to change of a key; what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "limit": 60,
                    "budgets": [{"period": "day", "unit": "tokens", "soft": 40000, "hard": 50000}],
                }
            ]
        },
    )

    name: str | None = Field(default=None, min_length=1, max_length=100)
    limit: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=1_000_000,
        description="Requests a minute; null for the default.",
    )
    expires_at: AwareDatetime | None = Field(default=None, description="Null for never.")
    budgets: list[EdgesBody] | None = Field(
        default=None, max_length=4, description="The key's only budgets from now on."
    )


class RotateRequest(BaseModel):
    """How to bring in a new secret."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"grace_s": 3600}]})

    grace_s: float = Field(
        default=0.0, ge=0, le=30 * 86400, description="Seconds that the old secret stays good."
    )


class KeyView(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    client: str
    scopes: list[Scope]
    limit: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyView(KeyView):
    """A key with its secret."""

    key: str = _SECRET


class KeyList(BaseModel):
    """A page, newest first."""

    keys: list[KeyView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


def keys_router(
    store: KeyStore,
    authorize: Callable[[Scope], Callable[..., Any]],
    *,
    budgets: BudgetStore,
) -> APIRouter:
    """`/keys`; reading needs `admin:read`, changing needs `admin`."""
    router = APIRouter(prefix="/keys", tags=["keys"])
    reader = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]
    admin = Annotated[Principal, Depends(authorize(Scope.ADMIN))]

    @router.post("", status_code=201)
    async def create_key(body: KeyRequest, request: Request, _: admin) -> NewKeyView:
        """Make a key; its secret is in this answer and never again."""
        made = await store.create(
            body.client,
            body.name,
            scopes=body.scopes,
            limit=body.limit,
            expires_at=body.expires_at,
        )
        note_audit(request, target=made.key.id)
        return _with_secret(made)

    @router.get("")
    async def list_keys(
        _: reader,
        client: Annotated[str | None, Query(max_length=100)] = None,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> KeyList:
        """List keys, revoked and expired ones included."""
        page = await store.list(client=client, cursor=cursor, limit=limit)
        return KeyList(keys=[_view(key) for key in page.keys], cursor=page.cursor)

    @router.get("/{key_id}")
    async def get_key(key_id: str, _: reader) -> KeyView:
        """One key, without its secret."""
        return _view(await store.get(key_id))

    @router.patch("/{key_id}")
    async def change_key(key_id: str, body: KeyPatch, _: admin) -> KeyView:
        """Change a key's name, limit, expiry or budgets."""
        given = body.model_fields_set
        edges = None if body.budgets is None else edges_of(body.budgets)
        if edges is not None:
            check_budgets(key_id, edges)  # before the first write: a refusal leaves all as it was
        changed = await store.change(
            key_id,
            name=body.name,
            limit=body.limit if "limit" in given else Unset.YES,
            expires_at=body.expires_at if "expires_at" in given else Unset.YES,
        )
        if edges is not None:
            await budgets.put(Kind.KEY, key_id, edges)
        return _view(changed)

    @router.post("/{key_id}/rotate")
    async def rotate_key(key_id: str, _: admin, body: RotateRequest | None = None) -> NewKeyView:
        """Give the key a new secret, with a grace for the old one."""
        grace_s = body.grace_s if body is not None else 0.0
        return _with_secret(await store.rotate(key_id, grace_s=grace_s))

    @router.delete("/{key_id}", status_code=204)
    async def revoke_key(key_id: str, _: admin) -> None:
        """Revoke the key, at once and for good."""
        await store.revoke(key_id)

    return router


def _view(key: ApiKey) -> KeyView:
    return KeyView(**_fields(key))


def _with_secret(made: NewKey) -> NewKeyView:
    return NewKeyView(**_fields(made.key), key=made.text)


def _fields(key: ApiKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in KeyView.model_fields}
