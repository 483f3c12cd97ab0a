"""Every query of the admin pages and of the lists is by an index, whoever adds one."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from lambent.admission.decisions import Scope
from lambent.bus.transitions import DELIVERIES, EVENTS
from lambent.chat.entries import Entry, entry_document
from lambent.clock import FAR_FUTURE
from lambent.due import DueDocuments, DueKind, new_due_fields
from lambent.engine.documents import new_run
from lambent.engine.model import RUNS
from lambent.http.admin.pages import PAGES
from lambent.ids import ulid_floor
from lambent.models.values import Message, Role
from lambent.schedules.transitions import SCHEDULES
from local.benches.dashboard import finished_step
from tests.functions.admin_site import AdminSite
from tests.functions.explained import (
    Asked,
    Look,
    examined,
    left_over,
    look_of,
    overheard,
    wasteful,
)

COUNT: Final = 3000
KINDS: Final = (RUNS, EVENTS, DELIVERIES, SCHEDULES)
HOOK: Final = "01KB0000000000000000000000"
LONG: Final = "01KB0000000000000000000001"
BOTH: Final = "01KB0000000000000000000002"
TALK: Final = "01KB0000000000000000000003"
# By each path of `PAGES`: what may stand behind it, the narrow filters above all.
VIEWS: Final[dict[str, tuple[str, ...]]] = {
    "/admin": ("",),
    "/admin/": (),
    "/admin/runs": (
        "", "?status=failed", "?status=blocked", "?workflow=w3", "?workflow=w3&status=failed",
        "?workflow=w3&version=2", "?workflow=w3&version=1&status=blocked", "?status=going_on",
        "?workflow=w3&status=going_on", "?client=c2&status=going_on",
        "?client=c2", "?client=c2&status=blocked", "?client=c2&workflow=w3",
        "?client=c3&workflow=w3", "?workflow=none",
        "?created_from=2026-01-01&created_to=2026-01-02", "?cursor={cursor}", "?parent={run}",
        "?parent={run}&cursor={cursor}",
    ),
    "/admin/runs/bulk": (
        "?command=cancel", "?command=retry&workflow=w3", "?command=retry&workflow=w3&version=2",
    ),
    "/admin/runs/{run}": ("", "?from=start", "?step=n40"),
    "/admin/workflows": ("",),
    "/admin/workflows/{name:path}": ("",),
    "/admin/events": (
        "", "?type=t3", "?type=rare", "?subject=rare", "?source=rare", "?status=failed",
        "?status=pending", "?cursor={between}", "?type=t3&status=failed",
    ),
    "/admin/events/{key}": ("",),
    "/admin/schedules": ("", "?cursor={between}"),
    "/admin/schedules/{schedule}": ("",),
    "/admin/webhooks": ("",),
    "/admin/webhooks/{webhook}": ("", "?status=dead", "?cursor={between}-x", "?status=pending"),
    "/admin/keys": ("", "?client=c2", "?cursor={between}"),
    "/admin/keys/{key}": ("",),
    "/admin/audit": (
        "", "?action=rare", "?target=rare", "?key_id=rare", "?cursor={between}",
    ),
    "/admin/usage": ("", "?client=c2", "?from=2026-01-01&to=2026-01-02"),
    "/admin/usage/csv": ("",),
    "/admin/playground": ("", "?cursor={between}", f"?conversation={TALK}"),
    "/admin/hosts": ("",),
    "/admin/charts/{name}": ("runs.svg", "chats.svg", "limits.svg", "tokens.svg"),
}  # fmt: skip
# Lists of the API as a client reaches them.
LISTS: Final = (
    "/runs", "/runs?status=failed", "/runs?workflow=w3", "/events", "/events?type=rare",
    "/schedules", "/webhooks", f"/webhooks/{HOOK}/deliveries?status=dead", "/conversations",
    f"/conversations/{TALK}?last=5", f"/conversations/{TALK}?before=300.1",
)  # fmt: skip
# What narrows a look so far that the rest may be looked for in the documents themselves.
NARROW: Final = {"runs": {"client"}, "events": {"client", "subject", "source"}}
# But a client's runs of one workflow may be few among very many of its own.
NEVER_LEFT: Final = {"workflow"}
# Few: a client has a hundred webhooks at most, and a run waits for little.
FEW: Final = {"webhooks", "waits"}


@pytest.fixture
async def site(site: AdminSite) -> AdminSite:
    await fill(site)
    return site


async def fill(site: AdminSite) -> None:
    """Documents of ten days, a few of them unlike the rest."""
    now = site.parts.clock.now()

    def named(name: str) -> Any:
        # Each time anew: a connection that was idle for long is replaced.
        return site.parts.mongo.db[name]

    step = timedelta(days=10) / COUNT
    ages = [(number, now - number * step) for number in range(COUNT)]
    await many(named("runs"), [run(number, at) for number, at in ages])
    long = new_run(
        id=LONG, key="long", workflow="w0", version=1, client="ops", input=None, now=now,
        priority=1, due_at=FAR_FUTURE,
    )  # fmt: skip
    await many(named("runs"), [{**long, "status": "completed", "records": 60}])
    await many(named("events"), [event(number, at) for number, at in ages])
    await many(named("events"), [{**event(COUNT, now), "_id": BOTH}])
    await many(named("webhook_deliveries"), [delivery(number, at) for number, at in ages])
    await many(named("steps"), [finished_step(LONG, number, since=now) for number in range(60)])
    await talk(site)
    hook = {"client": "ops", "url": "https://x.example/", "types": ["*"], "description": "",
            "secrets": [], "status": "active", "reason": None, "created_at": now,
            "updated_at": now}  # fmt: skip
    await many(named("webhooks"), [{**hook, "_id": HOOK}])
    plan = {"cron": "0 7 * * *", "timezone": "Europe/Berlin", "workflow": "w3", "version": None,
            "input": "null", "catch_up": "last", "catch_up_limit": 1}  # fmt: skip
    ticked = {"tick_at": now, "last_tick_at": now, "last_run": LONG, "recent": [LONG, BOTH]}
    await many(named("schedules"), [{
        "_id": HOOK, "client": "ops", "name": "n", **plan, **ticked, "status": "active",
        "problem": None, "created_at": now, "updated_at": now, **new_due_fields(FAR_FUTURE),
    }])  # fmt: skip


async def talk(site: AdminSite) -> None:
    """A conversation of 600 messages, of which the last are asked for."""
    store, said = site.parts.conversations, (Message(role=Role.user, content="Hi"),)
    await store.create("ops", id=TALK, messages=said)
    entries = [Entry(number, said, None, site.parts.clock.now()) for number in range(2, 601)]
    documents = [entry_document(TALK, "ops", one) for one in entries]
    await many(site.parts.mongo.db["conversation_entries"], documents)


async def many(collection: Any, documents: list[dict[str, Any]]) -> None:
    for first in range(0, len(documents), 200):  # each within the store's limit of time
        await collection.insert_many(documents[first : first + 200])


def an_id(number: int, at: Any) -> str:
    return f"{ulid_floor(at)}{number:016d}"


def run(number: int, at: Any) -> dict[str, Any]:
    made = new_run(
        id=an_id(number, at), key=str(number), workflow=f"w{number % 10}",
        version=2 if number in (3, 2993) else 1,
        client=f"c{number % 5}", input=None, now=at, priority=1, due_at=FAR_FUTURE,
        parent={"run": LONG, "epoch": 0, "key": f"n{number}"},
    )  # fmt: skip
    rare = {7: "blocked", 2990: "blocked", 10: "failed", 2980: "failed"}
    return {**made, "status": rare.get(number, "completed"), "records": 60}


def event(number: int, at: Any) -> dict[str, Any]:
    rare = number in (7, 2990)
    return {
        "_id": an_id(number, at), "client": "ops" if number % 2 else "c1", "id": str(number),
        "source": "rare" if rare else "/s", "type": "rare" if rare else f"t{number % 10}",
        "subject": "rare" if rare else None, "time": None, "datacontenttype": None,
        "dataschema": None, "extensions": {}, "data": None, "received_at": at,
        "status": "failed" if rare else "delivered", "attempts": 0, **new_due_fields(FAR_FUTURE),
    }  # fmt: skip


def delivery(number: int, at: Any) -> dict[str, Any]:
    return {
        "_id": f"{an_id(number, at)}-{HOOK}", "client": "ops", "webhook": HOOK,
        "event": an_id(number, at), "type": "t", "attempts": 1, "history": [], "reason": None,
        "status": "dead" if number in (7, 2990) else "delivered", "created_at": at,
        **new_due_fields(FAR_FUTURE),
    }  # fmt: skip


async def problems(site: AdminSite, page: str, asked: Asked) -> list[str]:
    """What of it is not by an index, or looks at too much."""
    found, db = [], site.parts.mongo.db
    for command in asked.commands:
        look = look_of(command)
        known = await db[look.collection].index_information()
        indexes = [[name for name, _ in one["key"]] for one in known.values()]
        left = left_over(look, indexes)
        narrow = NARROW.get(look.collection, set()) & look.filter.keys()
        bearable = left and narrow - left and not NEVER_LEFT & left
        if look.collection in FEW or bearable:
            continue
        if left is None or left:
            found.append(f"{page}: no index for {look.shape}; left over: {left}")
            continue
        named = isinstance(look.filter.get("_id"), str)
        if look.filter.keys() == {"_id"} or (named and look.filter.keys() == {"_id", "client"}):
            continue  # the local store, and no other, has no index of them
        plan, looked_at, returned = await examined(db, command)
        if "COLLSCAN" in plan and (look.filter or not look.limit):
            found.append(f"{page}: a scan of {look.shape}")
        if wasteful(look, looked_at, returned):
            found.append(f"{page}: {looked_at} looked at for {returned}: {look.shape}")
    return found


def test_every_page_is_viewed_here() -> None:
    assert {path for path, _ in PAGES} == VIEWS.keys()


def address(path: str, query: str, api_key: str) -> str:
    """A page's address; an id that is named on it is there, or is a place between others."""
    between = an_id(1000, datetime.now(UTC) - timedelta(days=4))
    cursor = base64.urlsafe_b64encode(between.encode()).decode()
    key = api_key if path.startswith("/admin/keys") else BOTH
    named = {
        "{run}": LONG,
        "{key}": key,
        "{webhook}": HOOK,
        "{schedule}": HOOK,
        "{name:path}": "w3",
        "{name}": "",
    }
    named |= {"{between}": between, "{cursor}": cursor}
    text = path + query
    for name, value in named.items():
        text = text.replace(name, value)
    return text


async def test_every_query_of_the_pages_is_by_an_index(site: AdminSite) -> None:
    browser = await site.browser()
    key = (await site.key(Scope.CHAT)).split("_")[1]
    views = [(path, query) for path, several in VIEWS.items() for query in several]
    found: list[str] = []
    for page in [address(path, query, key) for path, query in views]:
        with overheard(site.parts.settings.mongo_db_name) as asked:
            answer = await browser.get(page)
        assert answer.status_code == 200, (page, answer.text[-500:])
        found += await problems(site, page, asked)
    assert found == [], "\n".join(found)


async def test_every_query_of_a_client_s_lists_is_by_an_index(site: AdminSite) -> None:
    key = await site.key(Scope.RUNS, Scope.EVENTS, Scope.CHAT)
    found: list[str] = []
    async with site.client(key) as client:
        for page in LISTS:
            with overheard(site.parts.settings.mongo_db_name) as asked:
                answer = await client.get(page)
            assert answer.status_code == 200, (page, answer.text)
            assert asked.commands
            found += await problems(site, page, asked)
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.collection)
async def test_what_the_poller_looks_for_is_by_an_index(site: AdminSite, kind: DueKind) -> None:
    parts = site.parts
    due = DueDocuments(parts.mongo, kind, clock=parts.clock)
    with overheard(parts.settings.mongo_db_name) as asked:
        await due.find(50)
        await due.next_due_at(parts.clock.now() + timedelta(minutes=1))
    assert asked.commands
    found = await problems(site, kind.collection, asked)
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    ("filter", "sort", "left"),
    [
        ({"a": 1, "b": 2}, {}, set()),
        ({"b": 2, "a": 1, "c": {"$gt": 1}}, {"c": -1}, set()),
        ({"a": 1}, {"c": 1}, None),
        ({"b": 1}, {}, None),
        ({"a": 1, "z": 1}, {"b": 1}, {"z"}),
        ({"a": {"$gt": 1}, "b": 1}, {}, {"b"}),
        ({}, {"a": 1}, set()),
        ({}, {}, None),
        ({"_id": "x", "z": 1}, {}, set()),
    ],
)
def test_what_an_index_serves(filter: Any, sort: Any, left: set[str] | None) -> None:
    assert left_over(Look("x", filter, sort, 10), [["a", "b", "c"]]) == left
