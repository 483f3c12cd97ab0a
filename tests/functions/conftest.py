"""Whole platforms for black-box tests: one over the small real model, one over a scripted one."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from lambent import set_up
from local.services import ScriptedModel
from tests.functions.admin_site import AdminSite, admin_site
from tests.functions.dashboard_kit import Operator, running_chromium
from tests.functions.stack import Stack, running_stack

# Chats of the tests must not wait for each other's limit or for a half minute of open breaker.
_BRISK = {
    "RATE_LIMIT_MAX_REQUESTS": "100000",
    "BREAKER_OPEN_S": "2",
    "SLOT_WAIT_S": "2",
    "KEEP_ALIVE_S": "1",
    # A page has to come back for more in any test that watches.
    "LIVE_STREAM_S": "3",
    "OLLAMA_FIRST_TOKEN_TIMEOUT_S": "20",
    "OLLAMA_NEXT_TOKEN_TIMEOUT_S": "5",
}


@pytest.fixture(scope="session")
def real_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything embedded, settings as they come."""
    with running_stack(tmp_path_factory.mktemp("real") / "data") as stack:
        yield stack


@pytest.fixture(scope="session")
def script() -> Iterator[ScriptedModel]:
    """The scripted Ollama behind `scripted_stack`."""
    with ScriptedModel.start() as model:
        yield model


@pytest.fixture
async def site(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> AsyncIterator[AdminSite]:
    """A gateway with its pages over real stores, as setup leaves them."""
    async with admin_site(postgres_dsn, mongo_uri, mongo_db_name) as site:
        await set_up._ensure_indexes(site.parts)  # type: ignore[arg-type]
        yield site


@pytest.fixture(autouse=True)
def unasked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test scripted and nothing asked for, the next one is not told."""
    yield
    if "script" in request.fixturenames:
        request.getfixturevalue("script").forget()


@pytest.fixture(scope="session")
def feed() -> Iterator[str]:
    """The address of a feed with two articles."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Feed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/feed.xml"
        server.shutdown()


class _Feed(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        item = "<item><title>{0}</title><link>http://{1}/{0}</link></item>"
        host = self.headers["host"]
        items = "".join(item.format(title, host) for title in ("Sky", "Grass"))
        body = f"<rss version='2.0'><channel><title>T</title>{items}</channel></rss>".encode()
        self.send_response(200)
        self.send_header("content-type", "application/rss+xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests say enough."""


@pytest.fixture(scope="session")
def scripted_stack(
    tmp_path_factory: pytest.TempPathFactory, script: ScriptedModel, feed: str
) -> Iterator[Stack]:
    """Embedded stores, and a model server that does what a test tells it."""
    feeds = {"NEWS_FEEDS": feed, "NEWS_FEED_HOSTS": urlsplit(feed).netloc}
    environ = {**_BRISK, **feeds, "OLLAMA_HOST": script.host}
    with running_stack(tmp_path_factory.mktemp("scripted") / "data", environ) as stack:
        yield stack


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser without a window; each test takes a context of its own.

    Not for the session: while it is there, its event loop is this thread's, and no other can run.
    """
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def operator(chromium: Browser, scripted_stack: Stack) -> Iterator[Operator]:
    """Somebody signed in with the admin's key; the console has to stay silent."""
    who = Operator(chromium, scripted_stack)
    who.sign_in(scripted_stack.admin_key)
    yield who
    who.context.close()
    assert who.complaints == []
