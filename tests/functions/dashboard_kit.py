"""Somebody at a real Chromium before the admin pages, and what a sound page is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from local.services import ServiceError
from tests.conftest import started
from tests.functions.stack import ROOT, Stack

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
# Playwright's own five seconds for an `expect` are short where two browsers share a machine.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
# The artefacts of the run: not in the repository, kept until the next run.
SCREENSHOTS = ROOT / ".lambent" / "screenshots"
VARIANTS = {
    "wide-light": (1280, 900, "light"),
    "wide-dark": (1280, 900, "dark"),
    "narrow-light": (390, 844, "light"),
    "narrow-dark": (390, 844, "dark"),
}
AXE: dict[str, Any] = {"resultTypes": ["violations"]}
HOSTILE = "<img src=x onerror=window.hit=1>'\"><script>window.hit=1</script>{{7*7}}"


@contextmanager
def running_chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        started(_no_browser)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def _no_browser() -> None:
    raise ServiceError("there is no chromium: apt-get install chromium")


class Operator:
    """Somebody at a browser. Whatever the console complains about is kept."""

    def __init__(
        self,
        browser: Browser,
        stack: Stack,
        *,
        variant: str = "wide-light",
        scripts: bool = True,
        timezone: str | None = None,
    ) -> None:
        width, height, scheme = VARIANTS[variant]
        options: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
        options |= {"java_script_enabled": scripts, "timezone_id": timezone}
        self.context = browser.new_context(base_url=stack.url, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def sign_in(self, key: str, wanted: str = "/admin") -> Page:
        self.page.goto(wanted)
        self.page.get_by_label("Admin key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("button", name="Sign out", exact=True)).to_be_visible()
        return self.page


def eventually(page: Page, condition: Callable[[], Any], *, tries: int = 200) -> None:
    """Wait for what the page's events bring about, twenty times a second."""
    for _ in range(tries):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come about")


def counted(page: Page, status: str) -> int:
    """The number of runs in this state above a list."""
    return int(page.locator(f"[data-count={status}]").inner_text().replace(",", ""))


def problems_of(who: Operator, name: str, variant: str) -> list[str]:
    page = who.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{variant}.png", full_page=True)
    found = list(who.complaints)
    who.complaints.clear()
    if page.evaluate("window.hit !== undefined"):
        found.append("a hostile text was run")
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("it is wider than the window")
    for one in Axe().run(page, options=AXE).response["violations"]:
        if one["impact"] in {"serious", "critical"}:
            found.append(f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}")
    return found
