"""The session page in a real Chromium: it grows while one watches, is read by keyboard, and breaks no policy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.running import READ, Running, now
from tests.flows.test_session_page import BEGIN, EVIL, FORMULA, S, livekit, person, told

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]


class Watched:
    """A browser page that remembers what went wrong, and the tracker behind it."""

    def __init__(self, running: Running, web: aiohttp.ClientSession, browser: Any) -> None:
        self.running, self.web, self.browser = running, web, browser
        self.wrong: list[str] = []
        self.asked: list[str] = []

    async def open(self, path: str, **options: Any) -> Any:
        context = await self.browser.new_context(
            extra_http_headers=READ, viewport={"width": 1280, "height": 900}, **options
        )
        page = await context.new_page()
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        await page.goto(self.running.url + path)
        return page

    async def post(self, *sent: Any) -> None:
        for each in sent:
            status, answer = await self.running.post(self.web, "livekit", each)
            assert status == 200, answer


async def until(asked: Any, wanted: Any, seconds: float = 10) -> None:
    """Wait until `asked()` gives `wanted`."""
    found = None
    for _ in range(int(seconds / 0.05)):
        found = await asked()
        if found == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found!r} is not {wanted!r}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("browser")
    running = await Running(folder).start(init=True)
    try:
        async with aiohttp.ClientSession() as web, playwright.async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            found = Watched(running, web, browser)
            await found.post(*told(BEGIN))
            yield found
            await browser.close()
    finally:
        await running.stop()


PAGE = "/sessions/lk%3ARM_evil"


def counted(page: Any, name: str) -> Any:
    async def asked() -> int:
        return int(await page.locator(".lanes-view").get_attribute(f"data-{name}") or 0)

    return asked


async def test_a_bar_grows_and_closes_while_one_watches(watched: Watched) -> None:
    page = await watched.open(PAGE)
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    bars, running = await counted(page, "bars")(), await counted(page, "running")()
    rows = await page.locator(".events-scroll tr.event").count()
    carol = person("PA_3", "Carol", now())
    await watched.post(livekit("participant_joined", now(), participant=carol))
    await until(counted(page, "bars"), bars + 1)
    assert await counted(page, "running")() == running + 1
    await until(page.locator(".events-scroll tr.event").count, rows + 1)
    await until(page.locator("#people th", has_text="Carol").count, 1)
    left = carol | {"state": "DISCONNECTED", "disconnectReason": "CLIENT_INITIATED"}
    await watched.post(livekit("participant_left", now() + 2 * S, participant=left))
    await until(counted(page, "running"), running)
    await page.context.close()


async def test_a_restart_of_the_server_loses_no_entry(watched: Watched) -> None:
    page = await watched.open(PAGE)
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    rows = await page.locator(".events-scroll tr.event").count()
    before = watched.running.url
    await watched.running.stop()
    config = watched.running.config
    config.write_text(config.read_text("utf-8").replace("port = 0", f"port = {before.rpartition(':')[2]}"), "utf-8")
    await watched.running.start()
    assert watched.running.url == before
    await watched.post(livekit("participant_joined", now(), participant=person("PA_4", "Dan", now())))
    await until(page.locator(".events-scroll tr.event").count, rows + 1, 20)
    watched.wrong = [said for said in watched.wrong if "ERR_" not in said]
    await page.context.close()


async def test_keys_walk_through_events_and_bring_up_the_raw_record(watched: Watched) -> None:
    page = await watched.open(PAGE)
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    for _ in range(2):
        await page.keyboard.press("j")
    await until(page.locator("tr.picked .kind").inner_text, "participant joined")
    assert EVIL in await page.locator("#lanes-said").inner_text()
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
    await page.context.close()


async def test_pointing_at_the_list_ties_it_to_the_lanes_and_a_click_on_a_bar_chooses_its_event(
    watched: Watched,
) -> None:
    page = await watched.open(PAGE)
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    box = await page.locator(".lanes-view").bounding_box()
    for y in range(80, int(box["height"]) - 8, 6):
        await page.mouse.move(box["x"] + 400, box["y"] + y)
        await page.wait_for_timeout(40)  # a browser tells of moves once a frame
        if (
            await page.locator(".lanes-tip strong", has_text=EVIL).count()
            and await page.locator(".lanes-view canvas.over").count()
        ):
            break
    await page.mouse.click(box["x"] + 400, box["y"] + y)
    await until(page.locator("tr.picked").count, 1)
    assert EVIL in await page.locator("tr.picked .who").inner_text()
    await page.context.close()


async def test_the_list_is_filtered_as_one_types(watched: Watched) -> None:
    page = await watched.open(PAGE)
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    await page.fill("#events-tools input", "published")
    await until(page.locator(".events-scroll tr.event").count, 1)
    await page.context.close()


async def test_without_scripts_picture_list_and_attendance_are_there(watched: Watched) -> None:
    page = await watched.open(PAGE, java_script_enabled=False)
    assert await page.locator("svg.lanes-svg .bar").count() >= 4
    assert await page.locator("#events-still tr.event").count() >= 4
    assert await page.locator("#people th", has_text=FORMULA).count() == 1
    assert not await page.locator("#lanes-live").is_visible()
    await page.context.close()


async def test_on_paper_there_is_the_still_picture_and_every_event(watched: Watched) -> None:
    page = await watched.open(PAGE, color_scheme="dark")
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    rows = await page.locator(".events-scroll tr.event").count()
    await page.emulate_media(media="print")
    await page.pdf()
    assert await page.locator("#lanes-still svg").is_visible()
    assert not await page.locator("#lanes-live").is_visible()
    assert await page.locator("#events-still tr.event").count() == rows
    await page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
async def test_nothing_is_wider_than_the_window(watched: Watched, width: int) -> None:
    page = await watched.open(PAGE)
    await page.set_viewport_size({"width": width, "height": 844})
    await page.wait_for_selector(".enhanced .events-scroll tr.event")
    assert await page.evaluate("document.documentElement.scrollWidth") == width
    await page.context.close()


async def test_no_page_made_an_error_broke_the_policy_or_asked_another_host(watched: Watched) -> None:
    assert watched.wrong == []
    assert watched.asked
    assert not [url for url in watched.asked if not url.startswith(watched.running.url)]
