"""What pages say of numbers, and that what they link to is what was counted."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest

from lambent.http.admin.formats import took
from tests.functions.admin_site import AdminSite
from tests.functions.test_queries_by_index import many, run


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0004, "0 ms"), (0.9996, "1.0 s"), (59.96, "1 m 0 s"), (299.7, "5 m 0 s"),
        (299.4, "4 m 59 s"), (3599.6, "1 h 0 m"), (7199.0, "2 h 0 m"), (None, ""),
    ],
)  # fmt: skip
def test_a_duration_has_no_sixty_seconds(seconds: float | None, said: str) -> None:
    assert took(seconds) == said


async def test_the_failed_runs_of_the_last_day_are_those_that_are_linked(site: AdminSite) -> None:
    now, failed = site.parts.clock.now(), {"status": "failed", "workflow": "news.digest"}
    ages = (timedelta(hours=1), timedelta(hours=23), timedelta(hours=49))
    made = [run(number, now - age) | failed for number, age in enumerate(ages)]
    await many(site.parts.mongo.db["runs"], made)
    browser = await site.browser()
    links = {
        "/admin": r'<a href="([^"]+)"><b>2</b><span>failed, last day',
        "/admin?": r'<a href="([^"]+)">Failed runs of the last day: 2',
        "/admin/workflows": r'<a href="([^"]+failed[^"]+)">2</a>',
        "/admin/workflows/news.digest": r'<a href="([^"]+failed[^"]+)">2</a>',
    }
    for page, link in links.items():
        found = re.search(link, (await browser.get(page)).text)
        assert found, page
        listed = (await browser.get(unescape(found[1]))).text
        assert listed.count("<tr>") == 1 + 2, page
        assert 'type="datetime-local" name="created_from" value="20' in listed


async def test_a_command_for_many_runs_says_how_many_and_stays_at_them(site: AdminSite) -> None:
    for _ in range(3):
        await site.run()
    browser = await site.browser()
    form = {"command": "cancel", "workflow": "news.digest", "created_from": "2026-01-01T00:00:00Z"}
    answer = await browser.do("do/runs-bulk", **form)
    where = answer.headers["location"]
    assert where.startswith("/admin/runs?workflow=news.digest&created_from=2026-01-01T00%3A00")
    page = (await browser.get(where)).text
    assert "Runs being cancelled: 3." in page
    assert 'value="2026-01-01T00:00"' in page
    assert "n=3" not in page
    assert "Runs being cancelled." in (await browser.get("/admin/runs?done=bulk-cancel&n=<b>")).text


async def test_the_breakers_history_is_read_back_page_by_page(site: AdminSite) -> None:
    host = site.parts.settings.ollama_hosts[0]
    for _ in range(22):
        await site.parts.gate.trip(host)
        await site.parts.gate.reset(host)
    browser = await site.browser()
    path, seen = "/admin/hosts", []
    while path:
        page = (await browser.get(path)).text
        table = page.partition('aria-label="History of breakers"')[2].partition("</table>")[0]
        seen.append(table.count("by hand"))
        older = re.search(r'rel="next" href="(\?cursor=\d+)#history"', page)
        assert ("Newest" in page) == (path != "/admin/hosts")
        path = f"/admin/hosts{older[1]}" if older else ""
    assert seen == [20, 20, 4]
