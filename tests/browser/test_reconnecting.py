"""The server goes away under an open page: it comes back, is rebuilt, is killed, and no entry is lost or told twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.support.browser import Watching, until, watching
from tests.support.server import now
from tracker.demo.calls import SampleDelivery, whole_call

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = 1_000_000
AWAY = ("net::ERR_",)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watching]:
    """A tracker that comes back at the address it had."""
    async with watching(tmp_path_factory.mktemp("reconnecting"), filled=False) as found:
        port = found.running.url.rpartition(":")[2]
        config = found.running.config
        config.write_text(config.read_text("utf-8").replace("port = 0", f"port = {port}"), "utf-8")
        yield found


async def shown(page: Page) -> Counter[str]:
    """What the list of events shows, by kind."""
    kinds = await page.locator(".events-scroll tr.event .kind").all_inner_texts()
    return Counter(kinds)


async def told(house: Watching, session: str) -> Counter[str]:
    """What the API tells of the session, by kind, in the words of the page."""
    entries: list[Any] = (await house.get(f"/v1/sessions/{quote(session, safe='')}/timeline", limit="1000"))["items"]
    return Counter(each["kind"].replace(".", " ").replace("_", " ") for each in entries)


async def test_a_page_that_was_open_through_restarts_a_kill_and_a_rebuild_shows_every_entry_once(
    house: Watching,
) -> None:
    call = whole_call("openvidu", now() - 160 * S)
    parts: list[list[SampleDelivery]] = [
        call[at : at + len(call) // 5 + 1] for at in range(0, len(call), len(call) // 5 + 1)
    ]
    await house.get("/v1/sessions", at_least=str(await house.post("openvidu", *parts[0])))
    async with house.page(await house.newest("openvidu"), forgiving=AWAY) as page:
        await page.set_viewport_size({"width": 1280, "height": 3600})
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        # Every row of this call is in the document, whatever the height of the list.
        await page.locator(".events-scroll").evaluate(
            "(each) => { each.style.maxHeight = each.style.height = '3000px' }"
        )
        session = (await house.get("/v1/sessions"))["items"][0]["id"]

        async def everything(wanted: Counter[str]) -> None:
            await until(lambda: shown(page), wanted, 30)

        await house.running.stop()
        await house.running.start()
        await house.get("/v1/sessions", at_least=str(await house.post("openvidu", *parts[1])))
        await everything(await told(house, session))
        await house.running.kill()
        await house.running.start()
        await house.get("/v1/sessions", at_least=str(await house.post("openvidu", *parts[2])))
        await everything(await told(house, session))
        code, _, complaint = await house.running.run("rebuild")
        assert code == 0, complaint
        await house.get("/v1/sessions", at_least=str(await house.post("openvidu", *parts[3])))
        await everything(await told(house, session))
        await house.running.stop()
        code, _, complaint = await house.running.run("rebuild")
        assert code == 0, complaint
        await house.running.start()
        await house.get("/v1/sessions", at_least=str(await house.post("openvidu", *(sum(parts[4:], [])))))
        whole = await told(house, session)
        assert whole["session ended"] == 1
        await everything(whole)
        await expect(page.locator("#title .badge.ended")).to_have_count(1)


async def test_the_list_of_calls_goes_on_after_a_restart(house: Watching) -> None:
    async with house.page("/", forgiving=AWAY) as page:
        await expect(page.locator("#live-status")).to_have_text("Live")
        await page.evaluate("window.kept = true")
        await house.running.stop()
        await expect(page.locator("#live-status")).to_have_text("Reconnecting…")
        await house.running.start()
        await house.post("livekit", *whole_call("livekit", now() - 10 * S)[:3])
        await expect(page.locator("tr[data-id^='lk:'] .badge.open")).to_have_count(1)
        await expect(page.locator("#live-status")).to_have_text("Live")
        assert await page.evaluate("window.kept")
