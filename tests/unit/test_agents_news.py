"""`NewsAgent` over real feeds of a local site: a digest, its sources, and what was not read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.agents.web import Document
from lambent_agents.feeds import parse_feed
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import ChatSite, chat_site, frames, said
from tests.unit.test_agents_web import pages

RSS = b"""<?xml version="1.0"?><rss version="2.0"><channel><title>Daily</title>
<item><title>Old &amp; slow</title><link>https://daily.example/1</link>
<pubDate>Mon, 02 Jan 2023 10:00:00 GMT</pubDate></item>
<item><title>New bridge opens</title><link>https://daily.example/2</link>
<description>&lt;p&gt;It is &lt;b&gt;long&lt;/b&gt;.&lt;/p&gt;</description>
<pubDate>Tue, 03 Jan 2023 10:00:00 GMT</pubDate></item>
<item><title>A trap</title><link>javascript:alert(1)</link></item>
</channel></rss>"""
ATOM = b"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Weekly</title>
<entry><title>Whales sing</title><link href="https://weekly.example/w"/>
<updated>2023-01-04T10:00:00Z</updated></entry></feed>"""
BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">
<!ENTITY f SYSTEM "file:///etc/passwd">]>
<rss version="2.0"><channel><item><title>&b;&f;</title><link>https://x.example/</link></item>
</channel></rss>"""
PATHS = {
    "/rss": (200, {"content-type": "application/rss+xml"}, RSS),
    "/atom": (200, {"content-type": "application/atom+xml"}, ATOM),
    "/html": (200, {"content-type": "text/html"}, b"<html><body>no feed</body></html>"),
    "/big": (200, {}, b"x" * 1_100_000),
}


@pytest.fixture
async def feeds() -> AsyncIterator[str]:
    async with pages(lambda path: PATHS.get(path, (404, {}, b""))) as url:
        yield url


@pytest.fixture
async def site(
    postgres_dsn: str, scripted_model: ScriptedModel, feeds: str
) -> AsyncIterator[ChatSite]:
    async with chat_site(
        postgres_dsn,
        scripted_model.host,
        news_feeds=(f"{feeds}/rss", f"{feeds}/atom", f"{feeds}/html"),
        news_feed_hosts=(feeds.removeprefix("http://"),),
    ) as site:
        yield site


async def test_a_digest_streams_and_ends_with_its_sources(
    site: ChatSite, scripted_model: ScriptedModel, feeds: str
) -> None:
    scripted_model.script(Reply.text("Whales sing [1]."))
    async with site.client() as client:
        text = (await client.post("/chat/stream", json={"agent": "news", "input": "News?"})).text
    asked = scripted_model.generations[0].json["messages"]
    assert asked[0]["role"] == "system"
    assert "[1] Whales sing (Weekly)" in asked[1]["content"]
    assert "[2] New bridge opens (Daily) It is long ." in asked[1]["content"]
    assert "[3] Old & slow (Daily)" in asked[1]["content"]
    assert "trap" not in asked[1]["content"]
    assert said(text).startswith("Whales sing [1].\n\nSources:\n[1] Whales sing: https://weekly")
    assert f"- {feeds}/html: holds no entries" in said(text)
    (sources,) = [one["sources"] for one in frames(text)[:-1] if "sources" in one]
    assert sources[0] == {"title": "Whales sing", "url": "https://weekly.example/w"}


async def test_feeds_named_in_the_request_are_read_instead(
    site: ChatSite, scripted_model: ScriptedModel, feeds: str
) -> None:
    asked = {"agent": "news", "input": f"Sum up {feeds}/atom, please"}
    async with site.client() as client:
        answer = (await client.post("/chat", json=asked)).json()
    assert [one["url"] for one in answer["sources"]] == ["https://weekly.example/w"]


async def test_feeds_that_cannot_be_read_are_reported_and_nothing_is_made_up(
    site: ChatSite, scripted_model: ScriptedModel, feeds: str
) -> None:
    asked = f"{feeds}/gone {feeds}/big http://169.254.169.254/feed http://elsewhere.example/rss"
    async with site.client() as client:
        answer = (await client.post("/chat", json={"agent": "news", "input": asked})).json()
    assert scripted_model.generations == []
    assert answer["output"].startswith("There is nothing to report")
    for reason in ("status 404", "larger than", "169.254.169.254, which is not allowed"):
        assert reason in answer["output"]


def test_a_feed_cannot_blow_up_or_read_files() -> None:
    found = parse_feed(Document("https://x.example/", "application/rss+xml", BOMB))
    assert all("root:" not in one.title for one in found)
