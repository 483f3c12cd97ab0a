"""Reads RSS and Atom feeds into headlines; a feed that cannot be read says why."""

from __future__ import annotations

import asyncio
import html
import re
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final

from lambent.agents.web import Document, FetchFailed, WebReader
from lambent.clock import EPOCH

_TAG: Final = re.compile(r"<[^>]*>")
_SUMMARY_CHARACTERS: Final = 240
_TITLE_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Headline:
    """One entry of a feed; `published_at` is the epoch where the feed does not say."""

    title: str
    url: str
    summary: str
    feed: str
    published_at: datetime


@dataclass(frozen=True, slots=True)
class BadFeed:
    """A feed that gave nothing, and why."""

    url: str
    reason: str


async def read_feeds(
    urls: Sequence[str], reader: WebReader
) -> tuple[list[Headline], list[BadFeed]]:
    """All feeds at once: headlines, the newest first, and the feeds that failed."""
    results = await asyncio.gather(*(_read_feed(url, reader) for url in urls))
    headlines = [one for result in results if not isinstance(result, BadFeed) for one in result]
    # One story often stands in several feeds.
    unique = {one.url: one for one in reversed(headlines)}
    newest = sorted(unique.values(), key=lambda one: one.published_at, reverse=True)
    return newest, [result for result in results if isinstance(result, BadFeed)]


async def _read_feed(url: str, reader: WebReader) -> list[Headline] | BadFeed:
    try:
        document = await reader.read(url)
    except FetchFailed as error:
        return BadFeed(url, error.detail)
    # Parsing a megabyte takes a second, which the event loop does not have.
    headlines = await asyncio.to_thread(parse_feed, document)
    return headlines or BadFeed(url, "holds no entries of RSS or Atom")


def parse_feed(document: Document) -> list[Headline]:
    """The entries that have a title and a web address; none where it is no feed."""
    import feedparser  # half of the agent's cold start, and only needed here

    # As a stream: a text or bytes would be tried as an address or a file's name first.
    parsed = feedparser.parse(
        BytesIO(document.body),
        response_headers={
            "content-type": document.content_type,
            "content-location": document.url,
        },
    )
    feed = _plain(parsed.feed.get("title", ""), _TITLE_CHARACTERS) or document.url
    entries = (_headline(entry, feed) for entry in parsed.entries)
    return [entry for entry in entries if entry is not None]


def _headline(entry: Any, feed: str) -> Headline | None:
    title = _plain(entry.get("title", ""), _TITLE_CHARACTERS)
    url = str(entry.get("link", ""))
    if not title or not url.startswith(("http://", "https://")):
        return None
    summary = _plain(entry.get("summary", ""), _SUMMARY_CHARACTERS)
    return Headline(title, url, summary, feed, _published_at(entry))


def _published_at(entry: Any) -> datetime:
    parsed = entry.get("published_parsed") or entry.get("updated_parsed")
    try:
        return datetime.fromtimestamp(timegm(parsed), UTC) if parsed else EPOCH
    except (TypeError, ValueError, OverflowError):
        return EPOCH


def _plain(text: object, limit: int) -> str:
    words = " ".join(html.unescape(_TAG.sub(" ", str(text))).split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"
