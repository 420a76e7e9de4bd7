"""A real Chromium in front of a real Tracker. Every page that a test opens fails the test if anything went wrong in it.

Debian's Chromium is driven (`apt install chromium`); Playwright downloads nothing. Where there is none the tests are
skipped and say so; with `TRACKER_REQUIRE_BROWSER=1`, as CI sets it, they fail instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright, expect

from tests.support.paths import TESTS
from tests.support.server import TOKEN, Running, now
from tracker.demo.show import SOURCES
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call

REQUIRED = os.environ.get("TRACKER_REQUIRE_BROWSER") == "1"
MISSING = "there is no Chromium here: apt install chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = (TESTS / "browser" / "vendor" / "axe.min.js").read_text("utf-8")
EVIL = "<script>alert(1)</script>"
HOUR = 3_600_000_000
COOKIE = "tracker_session"

# Pages are slow on a busy machine. Speed is measured in bench/.
expect.set_options(timeout=15_000)

LOG_VIOLATIONS = """addEventListener("securitypolicyviolation",
    (e) => console.error(`policy: ${e.violatedDirective} refused ${e.blockedURI}`), true)"""


def chromium() -> str:
    """The path of the browser. Without one, skips the test, or fails it where a browser is required."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and REQUIRED:
        pytest.fail(MISSING)
    if found is None:
        pytest.skip(MISSING)
    return found


@contextlib.asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """A headless browser. As root, in a container, it has no sandbox of its own and little shared memory."""
    path = chromium()
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
        )
        try:
            yield browser
        finally:
            await browser.close()


class Site:
    """A running Tracker, a browser to look at it, and an HTTP client to post to it."""

    def __init__(self, running: Running, web: aiohttp.ClientSession, browser: Browser) -> None:
        self.running, self.web, self.browser = running, web, browser

    @contextlib.asynccontextmanager
    async def page(
        self, path: str, *, signed_in: bool = True, expected: tuple[str, ...] = (), **options: Any
    ) -> AsyncIterator[Page]:
        """A page at `path`, in a new browser context. On leaving, fails if the page had a console error or warning,
        an exception, a dialog, a policy violation, or a request to another host.

        `expected`: parts of console messages that may appear. `options`: those of a browser context.
        """
        context = await self.browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        problems = self._faults_in(context)
        try:
            await context.add_init_script(LOG_VIOLATIONS)
            if signed_in:
                await context.add_cookies([{"name": COOKIE, "value": TOKEN, "url": self.running.url}])
            page = await context.new_page()
            await page.goto(self.running.url + path)
            yield page
            unexpected = [text for text in problems if not any(part in text for part in expected)]
            assert not unexpected, unexpected
        finally:
            await context.close()

    def _faults_in(self, context: BrowserContext) -> list[str]:
        problems: list[str] = []
        own_url = self.running.url + "/"

        def on_request(request: Request) -> None:
            if not request.url.startswith((own_url, "data:", "blob:")):
                problems.append(f"a request to another host: {request.url}")

        async def dialog(shown: Any) -> None:
            problems.append(f"a dialog: {shown.message}")
            await shown.dismiss()

        context.on("request", on_request)
        context.on("dialog", dialog)
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("console", lambda line: problems.append(line.text) if line.type in {"error", "warning"} else None)
        return problems

    async def post(self, vendor: str, *sent: SampleDelivery) -> int:
        """Sign and deliver in this order; returns the last position."""
        position = 0
        for each in sent:
            status, answer = await self.running.post(self.web, vendor, each)
            assert status == 200, answer
            position = max(position, answer["position"])
        return position

    async def get(self, path: str, **query: str) -> Any:
        """The API's answer, to compare with a page."""
        return await self.running.get(self.web, path, **query)

    async def newest(self, vendor: str) -> str:
        """The path of the page of this vendor's newest session."""
        found = await self.get("/v1/sessions", source=SOURCES[vendor], limit="1")
        return page_of(found["items"][0]["id"])


@contextlib.asynccontextmanager
async def running_site(folder: Path, *, config: str | None = None, filled: bool = True) -> AsyncIterator[Site]:
    """A new Tracker in `folder` and a browser. `filled`: with two calls of every vendor, some with hostile names."""
    async with launched() as browser, aiohttp.ClientSession() as web:
        running = await Running(folder, config=config).start(init=True)
        try:
            found = Site(running, web, browser)
            if filled:
                await fill(found)
            yield found
        finally:
            await running.stop()


async def fill(site: Site) -> None:
    """Two whole calls of every vendor, 30 and 3 hours ago (in the later ones Bob's name is a script); one refusal."""
    position = 0
    for vendor in VENDORS:
        for seed, hours in ((0, 30), (1, 3)):
            call = whole_call(vendor, now() - hours * HOUR, seed=seed)
            position = await site.post(vendor, *(renamed(each) if seed else each for each in call))
    forged = {"Authorization": "wrong"}
    async with site.web.post(f"{site.running.url}/hooks/ov", data=b"{}", headers=forged) as answer:
        assert answer.status == 401
    await site.get("/v1/sessions", at_least=str(position))


def renamed(sent: SampleDelivery) -> SampleDelivery:
    """The same delivery with a script for Bob's name."""
    return SampleDelivery(sent.event, sent.body.replace(b'"Bob"', f'"{EVIL}"'.encode()), sent.at, sent.query)


async def until(read: Callable[[], Awaitable[Any]], wanted: Any, seconds: float = 15) -> None:
    """Wait until `read()` returns `wanted`."""
    found = None
    for _ in range(int(seconds / 0.05)):
        found = await read()
        if found == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found!r} is not {wanted!r}")


def page_of(session: str) -> str:
    """The path of a session's page."""
    return f"/sessions/{quote(session, safe='')}"
