"""Keys over HTTP, as an admin handles them: made, used, rotated, ended, and read by others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.functions.admin_site import AdminSite, admin_site


@pytest.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[AdminSite]:
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name) as made:
        yield made


async def new_key(site: AdminSite, **fields: Any) -> dict[str, Any]:
    body = {"name": "laptop", "client": "search", "scopes": ["admin:read"], **fields}
    async with site.client(await site.key()) as admin:
        answer = await admin.post("/keys", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def status_with(site: AdminSite, secret: str) -> int:
    async with site.client(secret) as client:
        return int((await client.get("/keys")).status_code)


async def test_a_secret_is_told_once_and_never_read_again(site: AdminSite) -> None:
    made = await new_key(site)
    async with site.client(made["key"]) as reader:
        one, page = await reader.get(f"/keys/{made['id']}"), await reader.get("/keys")
    assert one.json() | {"key": made["key"], "last_used_at": None} == made
    assert made["id"] in page.text
    assert made["key"].rpartition("_")[2] not in one.text + page.text


async def test_who_may_only_read_changes_nothing(site: AdminSite) -> None:
    made = await new_key(site)
    own = f"/keys/{made['id']}"
    async with site.client(made["key"]) as reader:
        more = {"name": "x", "client": "x", "scopes": ["admin"]}
        for answer in (
            await reader.post("/keys", json=more),
            await reader.post(f"{own}/rotate"),
            await reader.patch(own, json={"limit": 1_000_000}),
            await reader.delete(own),
        ):
            assert answer.status_code == 403
        assert (await reader.get(own)).json()["limit"] is None


async def test_rotation_without_grace_ends_the_old_secret_at_once(site: AdminSite) -> None:
    made = await new_key(site)
    async with site.client(await site.key()) as admin:
        renewed = (await admin.post(f"/keys/{made['id']}/rotate")).json()
    assert await status_with(site, made["key"]) == 401
    assert await status_with(site, renewed["key"]) == 200


async def test_rotation_with_grace_leaves_both_secrets_good(site: AdminSite) -> None:
    made = await new_key(site)
    async with site.client(await site.key()) as admin:
        asked = await admin.post(f"/keys/{made['id']}/rotate", json={"grace_s": 600})
    assert await status_with(site, made["key"]) == 200
    assert await status_with(site, asked.json()["key"]) == 200


async def test_a_revoked_key_is_refused_and_cannot_be_brought_back(site: AdminSite) -> None:
    made = await new_key(site)
    async with site.client(await site.key()) as admin:
        assert (await admin.delete(f"/keys/{made['id']}")).status_code == 204
        assert (await admin.post(f"/keys/{made['id']}/rotate")).status_code == 409
    assert await status_with(site, made["key"]) == 401


async def test_a_key_brings_its_own_limit(site: AdminSite) -> None:
    made = await new_key(site, limit=2)
    async with site.client(made["key"]) as client:
        answers = [await client.get("/keys") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert "q=2;w=60" in answers[0].headers["ratelimit-policy"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30


YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()
REFUSED: list[tuple[str, object]] = [
    ("scopes", ["root"]),
    ("scopes", []),
    ("client", ""),
    ("name", "a\0b"),
    ("limit", 0),
    ("limit", True),
    ("expires_at", YESTERDAY),
    ("expires_at", "2030-01-01T00:00:00"),  # no zone: nobody knows when
    ("extra", 1),
]


async def test_what_cannot_be_a_key_names_its_field_and_makes_none(site: AdminSite) -> None:
    async with site.client(await site.key()) as admin:
        for field, value in REFUSED:
            body = {"name": "n", "client": "c", "scopes": ["chat"], field: value}
            answer = await admin.post("/keys", json=body)
            assert answer.status_code == 422, (field, value)
            assert field in answer.json()["errors"][0]["field"]
        assert (await admin.get("/keys", params={"client": "c"})).json()["keys"] == []


async def test_a_refused_change_of_a_key_changes_none_of_it(site: AdminSite) -> None:
    made = await new_key(site, limit=5)
    own = f"/keys/{made['id']}"
    nonsense = [{"period": "day", "unit": "tokens", "soft": 9, "hard": 1}]
    async with site.client(await site.key()) as admin:
        answer = await admin.patch(own, json={"name": "x", "limit": 1, "budgets": nonsense})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "budgets.0"
        kept = (await admin.get(own)).json()
    assert (kept["name"], kept["limit"]) == ("laptop", 5)
