"""The session page in a real Chromium: live updates, keyboard use, and no violation of the content policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.support.browser import Site, page_of, until, running_site
from tests.flows.dashboard.test_session_page import BEGIN, EVIL, FORMULA, S, livekit, person, open_call
from tests.support.server import now
from tracker.demo.show import SOURCES
from tracker.demo.calls import VENDORS, whole_call

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(tmp_path_factory.mktemp("session_browser"), filled=False) as found:
        position = await found.post("livekit", *open_call(BEGIN))
        await found.get("/v1/sessions", at_least=str(position))
        yield found


PAGE = "/sessions/lk%3ARM_evil"


def counted(page: Any, name: str) -> Any:
    async def count() -> int:
        return int(await page.locator(".lanes-view").get_attribute(f"data-{name}") or 0)

    return count


async def test_a_bar_appears_and_closes_in_an_open_page(site: Site) -> None:
    async with site.page(PAGE) as page:
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        bars, running = await counted(page, "bars")(), await counted(page, "running")()
        rows = await page.locator(".events-scroll tr.event").count()
        carol = person("PA_3", "Carol", now())
        await site.post("livekit", livekit("participant_joined", now(), participant=carol))
        await until(counted(page, "bars"), bars + 1)
        assert await counted(page, "running")() == running + 1
        await until(page.locator(".events-scroll tr.event").count, rows + 1)
        await until(page.locator("#people th", has_text="Carol").count, 1)
        left = carol | {"state": "DISCONNECTED", "disconnectReason": "CLIENT_INITIATED"}
        await site.post("livekit", livekit("participant_left", now() + 2 * S, participant=left))
        await until(counted(page, "running"), running)


async def test_keys_select_events_and_open_the_raw_record(site: Site) -> None:
    async with site.page(PAGE) as page:
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        for _ in range(2):
            await page.keyboard.press("j")
        await until(page.locator("tr.picked .kind").inner_text, "participant joined")
        assert EVIL in await page.locator("#lanes-announce").inner_text()
        await page.keyboard.press("k")
        await until(page.locator("tr.picked .kind").inner_text, "session started")
        for key in ("+", "ArrowRight", "ArrowLeft", "-", "0"):
            await page.keyboard.press(key)
        await page.locator(".events-scroll").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".raw pre")
        assert '"room_started"' in await page.locator(".raw pre").inner_text()
        await page.keyboard.press("Escape")
        await until(page.locator("tr.picked").count, 0)


async def test_hovering_an_event_marks_it_in_the_lanes_and_a_click_on_a_bar_selects_its_event(
    site: Site,
) -> None:
    async with site.page(PAGE) as page:
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        box = await page.locator(".lanes-view").bounding_box()
        for y in range(80, int(box["height"]) - 8, 6):
            await page.mouse.move(box["x"] + 400, box["y"] + y)
            await page.wait_for_timeout(40)  # browsers report mouse moves once a frame
            if (
                await page.locator(".lanes-tip strong", has_text=EVIL).count()
                and await page.locator(".lanes-view canvas.over").count()
            ):
                break
        await page.mouse.click(box["x"] + 400, box["y"] + y)
        await until(page.locator("tr.picked").count, 1)
        assert EVIL in await page.locator("tr.picked .who").inner_text()


async def test_typing_filters_the_list(site: Site) -> None:
    async with site.page(PAGE) as page:
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        await page.fill("#events-tools input", "published")
        await until(page.locator(".events-scroll tr.event").count, 1)


async def test_without_scripts_the_page_has_picture_list_and_attendance(site: Site) -> None:
    async with site.page(PAGE, java_script_enabled=False) as page:
        assert await page.locator("svg.lanes-svg .bar").count() >= 4
        assert await page.locator("#events-still tr.event").count() >= 4
        assert await page.locator("#people th", has_text=FORMULA).count() == 1
        assert not await page.locator("#lanes-live").is_visible()


async def test_the_printed_page_has_the_static_picture_and_every_event(site: Site) -> None:
    async with site.page(PAGE, color_scheme="dark") as page:
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        rows = await page.locator(".events-scroll tr.event").count()
        await page.emulate_media(media="print")
        await page.pdf()
        assert await page.locator("#lanes-still svg").is_visible()
        assert not await page.locator("#lanes-live").is_visible()
        assert await page.locator("#events-still tr.event").count() == rows


@pytest.mark.parametrize("width", [1280, 390])
async def test_the_page_is_not_wider_than_the_window(site: Site, width: int) -> None:
    async with site.page(PAGE) as page:
        await page.set_viewport_size({"width": width, "height": 844})
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        assert await page.evaluate("document.documentElement.scrollWidth") == width


async def test_bars_of_calls_of_every_vendor_appear_and_close_in_an_open_page(site: Site) -> None:
    await asyncio.gather(*(watch_to_the_end(site, vendor) for vendor in VENDORS))


async def watch_to_the_end(site: Site, vendor: str) -> None:
    """Open the page of a call that has begun, then end the call."""
    call = whole_call(vendor, now() - 160 * S, seed=3)
    half = next(n for n, sent in enumerate(call) if sent.at > call[0].at + 25 * S)
    await site.get("/v1/sessions", at_least=str(await site.post(vendor, *call[:half])))
    async with site.page(await site.newest(vendor)) as page:
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        await page.evaluate("window.notReloaded = true")
        bars, running = await counted(page, "bars")(), await counted(page, "running")()
        assert running >= 2, "the call and at least one participant"
        await expect(page.locator("#title .badge.open")).to_have_count(1)
        await site.post(vendor, *call[half:])
        await expect(page.locator("#title .badge.ended")).to_have_count(1)
        await until(counted(page, "running"), 0)
        assert await counted(page, "bars")() > bars
        session = (await site.get("/v1/sessions", source=SOURCES[vendor]))["items"][0]
        assert page.url.endswith(page_of(session["id"]))
        assert await page.evaluate("window.notReloaded"), "the page was not reloaded"
