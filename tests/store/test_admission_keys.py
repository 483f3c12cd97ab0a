"""API keys: shown once, stored as hashes, and what is done to them counts at once."""

import asyncio
from datetime import datetime, timedelta, timezone

import pytest

from lambent.admission.decisions import Admitted, Refused, Scope
from lambent.clock import SystemClock
from lambent.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unprocessable,
)
from tests.store.admission_kit import Stand, stand


async def good(place: Stand, credential: str, scope: Scope = Scope.CHAT) -> bool:
    """Whether the gate takes the key."""
    decision = await place.ask(credential, scope=scope, limited=False)
    if isinstance(decision, Admitted):
        return True
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, Unauthenticated | Forbidden)
    return False


async def test_a_new_key_opens_the_gate_and_its_secret_is_stored_nowhere(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn) as place:
        made = await place.keys.create("acme", "laptop", scopes=[Scope.CHAT, Scope.RUNS])
        assert await good(place, made.text)
        assert await place.keys.get(made.key.id) != made.key  # it was used since
        secret = made.text.rsplit("_", 1)[1]
        dump = await place.postgres.fetch("SELECT k::text AS line FROM lambent.api_key k")
        assert all(secret not in row.line for row in dump)


async def test_a_wrong_secret_for_a_real_id_is_refused(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        made = await place.keys.create("acme", "laptop", scopes=[Scope.CHAT])
        last = "A" if made.text[-1] != "A" else "B"
        assert not await good(place, made.text[:-1] + last)


async def test_a_key_reaches_no_further_than_its_scopes(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        admin = (await place.keys.create("ops", "admin", scopes=[Scope.ADMIN])).text
        reader = (await place.keys.create("ops", "board", scopes=[Scope.ADMIN_READ])).text
        assert await good(place, admin, Scope.ADMIN)
        assert await good(place, admin, Scope.ADMIN_READ)
        assert not await good(place, admin, Scope.CHAT)
        assert await good(place, reader, Scope.ADMIN_READ)
        assert not await good(place, reader, Scope.ADMIN)
        any_key = await place.ask(reader, scope=None)
        assert any_key.principal.may(Scope.ADMIN_READ)
        assert not any_key.principal.may(Scope.ADMIN)


async def test_rotation_ends_the_old_secret_at_once(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        made = await place.keys.create("acme", "laptop", scopes=[Scope.CHAT])
        rotated = await place.keys.rotate(made.key.id)
        assert rotated.key.id == made.key.id
        assert await good(place, rotated.text)
        assert not await good(place, made.text)


async def test_rotation_with_grace_keeps_the_old_secret_so_long(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        made = await place.keys.create("acme", "laptop", scopes=[Scope.CHAT])
        rotated = await place.keys.rotate(made.key.id, grace_s=0.5)
        assert await good(place, rotated.text)
        assert await good(place, made.text)
        await asyncio.sleep(0.6)
        assert not await good(place, made.text)
        with pytest.raises(Unprocessable):
            await place.keys.rotate(made.key.id, grace_s=-1)


async def test_a_revoked_key_is_unknown_and_stays_so(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        made = await place.keys.create("acme", "laptop", scopes=[Scope.CHAT])
        rotated = await place.keys.rotate(made.key.id, grace_s=60)
        first = await place.keys.revoke(made.key.id)
        assert not await good(place, rotated.text)
        assert not await good(place, made.text)
        assert (await place.keys.revoke(made.key.id)).revoked_at == first.revoked_at
        with pytest.raises(Conflict):
            await place.keys.rotate(made.key.id)


async def test_an_expired_key_is_refused(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        soon = SystemClock().now() + timedelta(seconds=0.5)
        made = await place.keys.create("acme", "trial", scopes=[Scope.CHAT], expires_at=soon)
        assert made.key.expires_at == soon
        assert await good(place, made.text)
        await asyncio.sleep(0.6)
        assert not await good(place, made.text)


async def test_a_key_may_have_a_limit_of_its_own(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, limit=100) as place:
        made = await place.keys.create("small", "two", scopes=[Scope.CHAT], limit=2)
        decisions = [await place.ask(made.text) for _ in range(3)]
        assert [type(one) for one in decisions] == [Admitted, Admitted, Refused]
        assert isinstance(decisions[2].error, RateLimited)
        assert decisions[0].limit.quota == 2


async def test_keys_are_listed_page_by_page_newest_first(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        for number in range(5):
            await place.keys.create("lister", f"key {number}", scopes=[Scope.CHAT])
            await asyncio.sleep(0.002)  # ids order by the millisecond
        seen: list[str] = []
        cursor = None
        while True:
            page = await place.keys.list(client="lister", cursor=cursor, limit=2)
            seen += [key.name for key in page.keys]
            if (cursor := page.cursor) is None:
                break
        assert seen == [f"key {number}" for number in (4, 3, 2, 1, 0)]
        assert len((await place.keys.list()).keys) == 6
        with pytest.raises(Unprocessable):
            await place.keys.list(cursor="'; DROP")


async def test_what_cannot_be_a_key_is_not_made_and_every_problem_is_named(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn) as place:
        with pytest.raises(Unprocessable) as caught:
            await place.keys.create(
                "bad\x00name",
                "",
                scopes=[],
                limit=0,
                expires_at=SystemClock().now() - timedelta(days=1),
            )
        assert caught.value.detail == "Not valid: client, name, scopes, limit, expires_at."
        named = [error["field"] for error in caught.value.fields["errors"]]
        assert named == ["client", "name", "scopes", "limit", "expires_at"]
        for key_id in ("nobody", "bad\x00id", ""):
            with pytest.raises(NotFound):
                await place.keys.get(key_id)
            with pytest.raises(NotFound):
                await place.keys.rotate(key_id)
            with pytest.raises(NotFound):
                await place.keys.revoke(key_id)


async def test_last_use_is_written_at_most_once_a_minute(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        made = await place.keys.create("acme", "laptop", scopes=[Scope.CHAT])
        assert made.key.last_used_at is None
        await place.ask(made.text)
        first = (await place.keys.get(made.key.id)).last_used_at
        assert first is not None
        await place.ask(made.text)
        assert (await place.keys.get(made.key.id)).last_used_at == first
        await place.postgres.fetch(
            "UPDATE lambent.api_key SET last_used_at = last_used_at - interval '61 seconds'"
        )
        await place.ask(made.text)
        later = (await place.keys.get(made.key.id)).last_used_at
        assert later is not None
        assert later > first


async def test_of_eight_set_ups_at_once_one_makes_the_first_admin_key(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as one, stand(postgres_dsn) as other:
        made = await asyncio.gather(
            *(place.keys.ensure_admin() for place in (one, other) for _ in range(4))
        )
        texts = [admin.text for admin in made if admin.text is not None]
        assert len(texts) == 1
        for scope in Scope:
            assert await good(one, texts[0], scope)


async def test_a_secret_from_outside_becomes_the_first_admin_key(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        own = (await place.keys.ensure_admin()).text
        given = "Outside0" * 4
        for secret in (given, f"lam_admin_{given}"):
            await place.keys.ensure_admin(secret=secret)
            assert await good(place, f"lam_admin_{given}", Scope.ADMIN)
        assert own is not None
        assert not await good(place, own, Scope.ADMIN)
        with pytest.raises(ConfigError):
            await place.keys.ensure_admin(secret="short")


async def test_a_secret_that_replaces_none_is_good_only_where_there_is_no_admin_key(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn) as place:
        for secret in ("First000" * 4, "Second00" * 4):
            made = await place.keys.ensure_admin(secret=secret, replaces=False)
            assert (made.text is not None) == secret.startswith("First")
            assert await good(place, f"lam_admin_{'First000' * 4}", Scope.ADMIN)


async def test_a_revoked_first_admin_key_comes_back_only_with_a_new_secret(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn) as place:
        stolen, fresh = "Stolen00" * 4, "Fresh000" * 4
        await place.keys.ensure_admin(secret=stolen)
        await place.keys.revoke("admin")
        await place.keys.ensure_admin()
        await place.keys.ensure_admin(secret=stolen)
        assert not await good(place, f"lam_admin_{stolen}", Scope.ADMIN)
        await place.keys.ensure_admin(secret=fresh)
        assert await good(place, f"lam_admin_{fresh}", Scope.ADMIN)


async def test_an_expiry_that_could_not_be_read_back_is_refused(postgres_dsn: str) -> None:
    late = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-23)))
    async with stand(postgres_dsn) as place:
        with pytest.raises(Unprocessable) as caught:
            await place.keys.create("acme", "for ever", scopes=[Scope.CHAT], expires_at=late)
        assert caught.value.fields["errors"][0]["field"] == "expires_at"
        assert all(key.name != "for ever" for key in (await place.keys.list()).keys)
