"""The addresses of the pages, each with the function that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lambent.http.admin import pages_access, pages_chat, pages_events, pages_overview, pages_runs
from lambent.http.admin.view import PageFunction

PAGES: Final[Sequence[tuple[str, PageFunction]]] = (
    ("/admin", pages_overview.overview),
    ("/admin/", pages_overview.overview),
    ("/admin/runs", pages_runs.runs),
    ("/admin/runs/bulk", pages_runs.bulk),
    ("/admin/runs/{run}", pages_runs.run),
    ("/admin/workflows", pages_runs.workflows),
    ("/admin/workflows/{name:path}", pages_runs.workflow),
    ("/admin/events", pages_events.events),
    ("/admin/events/{key}", pages_events.event),
    ("/admin/schedules", pages_events.schedules),
    ("/admin/schedules/{schedule}", pages_events.schedule),
    ("/admin/webhooks", pages_events.webhooks),
    ("/admin/webhooks/{webhook}", pages_events.webhook),
    ("/admin/keys", pages_access.keys),
    ("/admin/keys/{key}", pages_access.key),
    ("/admin/audit", pages_access.audit),
    ("/admin/usage", pages_access.usage),
    ("/admin/usage/csv", pages_access.usage_csv),
    ("/admin/playground", pages_chat.playground),
    ("/admin/hosts", pages_overview.hosts),
    ("/admin/charts/{name}", pages_overview.chart),
)
