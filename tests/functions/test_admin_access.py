"""Who gets to the admin pages, what a form must bring, and what a read-only key may do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.admission.decisions import Scope
from tests.functions.admin_site import HERE, AdminSite, Browser, admin_site


@pytest.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[AdminSite]:
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name) as made:
        yield made


async def test_an_admin_signs_in_sees_a_run_and_cancels_it(site: AdminSite) -> None:
    run = await site.run()
    browser = await site.browser()
    assert run[-8:] in (await browser.get("/admin/runs")).text
    page = (await browser.get(f"/admin/runs/{run}")).text
    assert "Cancel" in page
    answer = await browser.do("do/run-cancel", run=run)
    assert answer.status_code == 303, answer.text
    after = await browser.get(answer.headers["location"])
    assert "being cancelled" in after.text
    assert "cancel asked for" in after.text


async def test_whoever_is_not_signed_in_is_asked_to(site: AdminSite) -> None:
    async with site.client() as client:
        answer = await client.get("/admin/runs?status=failed")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/admin/sign-in?next=/admin/runs%3Fstatus%3Dfailed"


@pytest.mark.parametrize("scopes", [(Scope.CHAT, Scope.RUNS, Scope.EVENTS)])
async def test_a_key_that_is_no_admins_does_not_sign_in(
    site: AdminSite, scopes: tuple[Scope, ...]
) -> None:
    answer = await Browser(site.client()).sign_in(await site.key(*scopes))
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_the_cookie_is_strict_and_out_of_reach_for_scripts(site: AdminSite) -> None:
    answer = await Browser(site.client()).sign_in(await site.key())
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "max-age=" in cookie


async def test_behind_https_the_cookie_is_bound_to_the_host(site: AdminSite) -> None:
    browser = Browser(site.client())
    browser.client.headers["x-forwarded-proto"] = "https"
    answer = await browser.sign_in(await site.key())
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-lambent-session=")
    assert "Secure" in cookie


async def test_a_session_ends_with_its_key(site: AdminSite) -> None:
    key = await site.key()
    browser = await site.browser(key=key)
    await site.parts.keys.revoke(key.split("_")[1])
    assert (await browser.get("/admin/runs")).status_code == 303


async def test_a_session_ends_when_the_keys_secret_is_replaced(site: AdminSite) -> None:
    key = await site.key()
    browser = await site.browser(key=key)
    await site.parts.keys.rotate(key.split("_")[1], grace_s=60)
    assert (await browser.get("/admin/runs")).status_code == 200
    await site.parts.keys.rotate(key.split("_")[1])
    assert (await browser.get("/admin/runs")).status_code == 303


async def test_a_cookie_that_was_stolen_is_refused_after_its_session_signed_out(
    site: AdminSite,
) -> None:
    key = await site.key()
    mine, other = await site.browser(key=key), await site.browser(key=key)
    thief = Browser(site.client())
    thief.client.headers["cookie"] = f"lambent-session={mine.client.cookies['lambent-session']}"
    form = {"csrf": await thief.csrf(), "run": await site.run()}
    assert (await mine.do("session/end")).status_code == 303
    assert "sign-in" in (await thief.get("/admin/runs")).headers["location"]
    refused = await thief.client.post("/admin/do/run-cancel", data=form, headers={"origin": HERE})
    assert "sign-in" in refused.headers["location"]
    assert (await site.parts.engine.control.get(form["run"], client=None)).control is None
    assert (await thief.get("/admin/session/token")).status_code == 401
    assert (await other.get("/admin/runs")).status_code == 200


async def test_an_ended_session_is_kept_until_its_cookie_has_expired(site: AdminSite) -> None:
    browser = await site.browser()
    insert = "INSERT INTO lambent.ended_session VALUES (%(id)s, now() - %(ago)s::interval)"
    for name, ago in (("long ago", "2 hours"), ("just now", "1 minute")):
        await site.parts.postgres.fetch(insert, {"id": name, "ago": ago})
    await browser.do("session/end")
    rows = await site.parts.postgres.fetch(
        "SELECT id, ends_at > now() AS live FROM lambent.ended_session"
    )
    assert sorted(row.live for row in rows) == [False, True]
    assert "long ago" not in {row.id for row in rows}


async def test_signing_out_everywhere_ends_every_session_of_the_key(site: AdminSite) -> None:
    key = await site.key()
    one, other = await site.browser(key=key), await site.browser(key=key)
    third = await site.browser()
    assert (await one.do("session/end", scope="everywhere")).status_code == 303
    assert (await other.get("/admin/runs")).status_code == 303
    assert (await third.get("/admin/runs")).status_code == 200


async def test_a_cookie_from_before_signing_in_does_not_become_the_session(
    site: AdminSite,
) -> None:
    # What somebody else planted may even be a session: his own, which must not become ours.
    planted = (await site.browser()).client.cookies["lambent-session"]
    mine = Browser(site.client())
    answer = await mine.client.post(
        "/admin/sign-in",
        data={"key": await site.key(name="me")},
        headers={"origin": HERE, "cookie": f"lambent-session={planted}"},
    )
    name, _, text = answer.headers["set-cookie"].partition(";")[0].partition("=")
    assert (name, text == planted) == ("lambent-session", False)
    async with site.client() as client:
        page = await client.get("/admin/runs", headers={"cookie": f"lambent-session={text}"})
        assert ">me<" in page.text.replace(" ", "").replace("\n", "")
        answer = await client.get("/admin/runs", headers={"cookie": "lambent-session=planted"})
        assert answer.status_code == 303


async def test_a_session_is_named_afresh_at_each_sign_in(site: AdminSite) -> None:
    key = await site.key()
    one = (await site.browser(key=key)).client.cookies["lambent-session"]
    other = (await site.browser(key=key)).client.cookies["lambent-session"]
    assert one != other


@pytest.mark.parametrize("change", ["x", "swap", "cut"])
async def test_a_cookie_that_was_changed_is_no_session(site: AdminSite, change: str) -> None:
    text = (await site.browser()).client.cookies["lambent-session"]
    body, _, signature = text.partition(".")
    forged = {"x": f"x{text}", "swap": f"{signature}.{body}", "cut": f"{body}."}[change]
    async with site.client() as client:
        answer = await client.get("/admin/runs", headers={"cookie": f"lambent-session={forged}"})
        assert answer.status_code == 303


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        ("/admin/runs?status=failed", "/admin/runs?status=failed"),
        ("//evil.example/admin", "/admin"),
        ("https://evil.example/admin", "/admin"),
        ("/admin//evil.example", "/admin//evil.example"),
        ("/admin\\..\\evil", "/admin"),
        ("/adminevil.example", "/admin"),
        ("/admin/../keys", "/admin"),
        ("javascript:alert(1)", "/admin"),
        ("/admin\r\nset-cookie: a=b", "/admin"),
    ],
)
async def test_after_signing_in_one_is_sent_to_our_own_pages_only(
    site: AdminSite, wanted: str, where: str
) -> None:
    answer = await Browser(site.client()).sign_in(await site.key(), next=wanted)
    assert answer.headers["location"] == where


async def test_ten_failed_sign_ins_of_one_address_are_enough(site: AdminSite) -> None:
    browser = Browser(site.client())
    wrong = f"lam_{'0' * 26}_{'x' * 43}"
    statuses = [(await browser.sign_in(wrong)).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    refused = await browser.sign_in(await site.key())
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


async def test_behind_the_front_the_address_is_the_callers_and_not_the_fronts(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str
) -> None:
    stores = (postgres_dsn, mongo_uri, mongo_db_name)
    async with admin_site(*stores, ORIGIN_SECRET="the-secret-of-the-front") as site:

        def asking(*forwarded: str) -> Browser:
            browser = Browser(site.client())
            browser.client.headers["x-lambent-origin"] = "the-secret-of-the-front"
            browser.client.headers["x-forwarded-for"] = ", ".join(forwarded)
            return browser

        wrong = f"lam_{'0' * 26}_{'x' * 43}"
        made_up = [f"198.51.100.{number}" for number in range(11)]
        tries = [await asking(one, "203.0.113.1").sign_in(wrong) for one in made_up]
        assert [one.status_code for one in tries] == [401] * 10 + [429]
        # The function's own side may have added the connection's address.
        same = asking("203.0.113.1", "127.0.0.1")
        assert (await same.sign_in(await site.key())).status_code == 429
        other = asking("203.0.113.1", "2001:db8::2")
        assert (await other.sign_in(await site.key())).status_code == 303
        [entry] = (await site.parts.audit.find(action="sign_in")).entries
        assert entry.address == "2001:db8::2"


async def test_without_a_front_nobody_says_where_he_is(site: AdminSite) -> None:
    wrong = f"lam_{'0' * 26}_{'x' * 43}"
    statuses = []
    for number in range(11):
        browser = Browser(site.client())
        browser.client.headers["x-forwarded-for"] = f"203.0.113.{number}"
        statuses.append((await browser.sign_in(wrong)).status_code)
    assert statuses == [401] * 10 + [429]


async def test_a_good_key_does_not_use_up_the_tries(site: AdminSite) -> None:
    key = await site.key()
    for _ in range(12):
        await site.browser(key=key)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": HERE, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_form_of_another_site_changes_nothing(
    site: AdminSite, headers: dict[str, str]
) -> None:
    run = await site.run()
    browser = await site.browser()
    form = {"csrf": await browser.csrf(), "run": run}
    answer = await browser.client.post("/admin/do/run-cancel", data=form, headers=headers)
    assert answer.status_code == 403
    assert (await site.parts.engine.control.get(run, client=None)).control is None


@pytest.mark.parametrize("token", ["", "wrong", "another"])
async def test_a_form_without_this_sessions_token_changes_nothing(
    site: AdminSite, token: str
) -> None:
    run = await site.run()
    browser = await site.browser()
    if token == "another":
        token = await (await site.browser()).csrf()
    answer = await browser.do("do/run-cancel", csrf=token, run=run)
    assert answer.status_code == 403
    assert (await site.parts.engine.control.get(run, client=None)).control is None


async def test_signing_out_needs_a_form_of_ours_too(site: AdminSite) -> None:
    browser = await site.browser()
    await browser.do("session/end", csrf="wrong", scope="this")
    assert (await browser.get("/admin/runs")).status_code == 200


PLACES = {
    "/admin": 200,
    "/admin/runs": 200,
    "/admin/sign-in": 303,
    "/admin/nothing": 404,
    "/admin/runs/none": 404,
    "/admin/runs/none/nothing": 404,
    "/admin/charts/tokens.svg": 200,
    "/admin/do/run-cancel": 405,
    "/admin/breakers": 401,
    "/admin/models": 401,
}


@pytest.mark.parametrize("path", PLACES)
async def test_no_answer_can_be_framed_or_run_what_is_not_ours(site: AdminSite, path: str) -> None:
    answer = await (await site.browser()).get(path)
    assert answer.status_code == PLACES[path]
    (policy,) = answer.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy or path.startswith("/admin/charts")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy or path.startswith("/admin/charts")
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_page_that_is_none_says_so_in_the_words_of_who_asks(site: AdminSite) -> None:
    browser = await site.browser()
    for path in ("/admin/nowhere", "/admin/runs/x/y/z"):
        page = await browser.client.get(path, headers={"accept": "text/html"})
        assert page.status_code == 404
        assert f"There is no page at {path}." in page.text
        assert 'href="/admin/runs"' in page.text
        told = await browser.client.get(path, headers={"accept": "application/json"})
        assert told.status_code == 404
        assert told.headers["content-type"] == "application/problem+json"
    async with site.client() as client:
        away = await client.get("/admin/nowhere", headers={"accept": "text/html"})
    assert away.headers["location"] == "/admin/sign-in?next=/admin/nowhere"


async def test_an_answer_of_the_api_below_admin_has_the_headers_too(site: AdminSite) -> None:
    async with site.client(await site.key()) as client:
        answers = [
            await client.get("/admin/breakers"),
            await client.get("/admin/models/none"),
            await client.post("/admin/models/load", json={"model": 1}),
        ]
    assert [one.status_code for one in answers] == [200, 503, 422]
    for answer in answers:
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_without_authentication_the_pages_ask_for_no_key(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str
) -> None:
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name, AUTH_ENABLED="false") as site:
        browser = Browser(site.client())
        assert (await browser.get("/admin/runs")).status_code == 303
        await browser.sign_in("")
        assert (await browser.get("/admin/runs")).status_code == 200


async def test_a_model_server_that_is_away_is_shown_as_such(site: AdminSite) -> None:
    page = await (await site.browser()).get("/admin/hosts")
    assert page.status_code == 200
    assert "Models of http://127.0.0.1:9" in page.text
    assert "Pull a model" in page.text
