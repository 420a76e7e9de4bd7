"""Makes the pictures in docs/pictures: Chromium's screenshots of a Tracker with the demo's calls.

    .venv/bin/python -m bench.pictures                 # docs/pictures/{session,session-dark,sessions}.png
    .venv/bin/python -m bench.pictures --look FOLDER   # every page, 1280 and 390 wide, light and dark, for a review

Needs Debian's Chromium (`apt install chromium`) and the development dependencies.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from playwright.async_api import Browser, Page, async_playwright

from bench import report
from tracker.domain.clock import now
from tracker.demo.show import SOURCES, config_text, read_token
from tracker.demo.calls import VENDORS, SampleDelivery, sign, whole_call
from tracker.demo.process import ServerProcess, start_server

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
MOST_BYTES = 200_000
S = 1_000_000
HOUR = 3_600 * S
SHOWN = "openvidu"


class Site:
    """A running Tracker with calls of all vendors."""

    def __init__(self, server: ServerProcess, web: aiohttp.ClientSession, keys: dict[str, str], token: str) -> None:
        self.server, self.web, self.keys, self.token = server, web, keys, token

    async def post(self, vendor: str, sent: SampleDelivery) -> int:
        """Send one delivery; returns its position."""
        headers, suffix, _ = sign(vendor, sent.body, self.keys[vendor], now())
        address = f"{self.server.url}/hooks/{SOURCES[vendor]}{suffix}"
        async with self.web.post(address, data=sent.body, headers=headers, params=sent.query) as answer:
            reply = await answer.json()
            assert answer.status == 200, reply
            return reply["position"]

    async def get(self, path: str, **query: str) -> Any:
        """The API's answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.web.get(self.server.url + path, params=query, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def newest(self, vendor: str) -> str:
        """The path of this vendor's newest session."""
        session = (await self.get("/v1/sessions", source=SOURCES[vendor]))["items"][0]
        return f"/sessions/{quote(session['id'], safe='')}"


def lost(vendor: str, sent: SampleDelivery, call: list[SampleDelivery]) -> bool:
    """Whether this delivery is left out of the shown call: Bob's join, so that the start of his bar is derived."""
    joins = [each for each in call if each.event == "participantJoined"]
    return vendor == SHOWN and sent is joins[1]


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A site with two ended calls of each vendor, one of them with lost deliveries, and one open call of each vendor."""
    with tempfile.TemporaryDirectory(prefix="tracker-pictures-") as folder:
        keys = {vendor: secrets.token_urlsafe(32) for vendor in VENDORS}
        read_key = secrets.token_urlsafe(32)
        config = Path(folder) / "config.toml"
        config.write_text(config_text(Path(folder), keys, read_key, 8137), "utf-8")
        async with start_server(config) as server, aiohttp.ClientSession() as web:
            found = Site(server, web, keys, read_token(read_key))
            position = 0
            for n, vendor in enumerate(VENDORS):
                for seed, ago, losses in ((0, 26 * HOUR, False), (1, 3 * HOUR + n * 700 * S, True)):
                    for m, sent in enumerate(whole_call(vendor, now() - ago, seed=seed)):
                        if not (losses and m % 5 == 3):
                            position = await found.post(vendor, sent)
            for n, vendor in enumerate(VENDORS):
                call = whole_call(vendor, now() - (131 + 4 * n) * S, seed=0)
                for sent in call:
                    if sent.at <= now() and not lost(vendor, sent, call):
                        position = await found.post(vendor, sent)
            async with web.post(f"{server.url}/hooks/ov", data=b"{}", headers={"Authorization": "wrong"}) as answer:
                assert answer.status == 401
            await found.get("/v1/sessions", at_least=str(position))
            yield found


@contextlib.asynccontextmanager
async def opened(
    browser: Browser, site: Site, path: str, *, width: int, height: int = 844, dark: bool = False
) -> AsyncIterator[Page]:
    """A page, signed in and fully loaded."""
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        timezone_id="Europe/Berlin",
        locale="en-GB",
    )
    try:
        await context.add_cookies([{"name": "tracker_session", "value": site.token, "url": site.server.url}])
        page = await context.new_page()
        await page.goto(site.server.url + path)
        if path.startswith("/sessions/"):
            await page.wait_for_selector(".enhanced .events-scroll tr.event")
        await page.wait_for_timeout(400)
        yield page
    finally:
        await context.close()


async def take(browser: Browser, site: Site) -> None:
    """Make the pictures of the documentation."""
    PICTURES.mkdir(exist_ok=True)
    session = await site.newest(SHOWN)
    for name, path, height, dark in (
        ("session", session, 960, False),
        ("session-dark", session, 960, True),
        ("sessions", "/", 860, False),
    ):
        async with opened(browser, site, path, width=1280, height=height, dark=dark) as page:
            await save(page, PICTURES / f"{name}.png")


async def save(page: Page, file: Path, *, whole: bool = False) -> None:
    """Save a screenshot. Raises AssertionError if it is too large for a README."""
    file.write_bytes(await page.screenshot(full_page=whole))
    print(f"{file} {file.stat().st_size // 1000} kB")
    assert whole or file.stat().st_size < MOST_BYTES, file


async def look(browser: Browser, site: Site, folder: Path) -> None:
    """Save every page at both widths in full length, and the wide ones in dark mode too."""
    folder.mkdir(parents=True, exist_ok=True)
    room = (await site.get("/v1/sessions", source=SOURCES["livekit"]))["items"][0]["room"]["id"]
    pages = {
        "calls": "/", "rooms": "/rooms", "room": f"/rooms/lk/{quote(room, safe='')}", "people": "/people",
        "person": "/people?identity=Alice", "recordings": "/recordings", "supervisors": "/supervisors",
        "statistics": "/statistics", "sources": "/sources", "log": "/log", "record": "/log/3", "sign-in": "/sign-in",
        "nothing": "/?room=nowhere", "unknown": "/sessions/nobody",
    }  # fmt: skip
    pages |= {f"session-{vendor}": await site.newest(vendor) for vendor in VENDORS}
    for name, path in pages.items():
        for width in (1280, 390):
            for dark in (False, True):
                if dark and name not in {"calls", "statistics", f"session-{SHOWN}"}:
                    continue
                if name == "unknown":
                    continue
                async with opened(browser, site, path, width=width, dark=dark) as page:
                    await save(page, folder / f"{name}-{width}{'-dark' if dark else ''}.png", whole=True)


async def make(folder: Path | None, *, smoke: bool) -> None:
    """Make the pictures of the documentation, or of all pages into `folder`; for a smoke run a single one, which is not kept."""
    async with site() as found, async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        if smoke:
            with tempfile.TemporaryDirectory() as temporary:
                async with opened(browser, found, "/", width=1280) as page:
                    await save(page, Path(temporary) / "sessions.png")
        else:
            await (take(browser, found) if folder is None else look(browser, found, folder))
        await browser.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures."""
    parser = report.parser(__doc__)
    parser.add_argument("--look", type=Path, metavar="FOLDER")
    options = parser.parse_args(argv)
    if shutil.which("chromium") is None:
        print("skipped: Chromium is missing (apt install chromium)")
        return 0
    asyncio.run(make(options.look, smoke=options.smoke))
    return 0


if __name__ == "__main__":
    report.run(main)
