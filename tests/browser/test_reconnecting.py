"""The server is restarted, killed and rebuilt under an open page, and the page shows each entry exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.support.browser import Site, until, running_site
from tests.support.server import now
from tracker.demo.calls import SampleDelivery, whole_call

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = 1_000_000
AWAY = ("net::ERR_",)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A Tracker that keeps its port when it is restarted."""
    async with running_site(tmp_path_factory.mktemp("reconnecting"), filled=False) as found:
        port = found.running.url.rpartition(":")[2]
        config = found.running.config
        config.write_text(config.read_text("utf-8").replace("port = 0", f"port = {port}"), "utf-8")
        yield found


async def shown(page: Page) -> Counter[str]:
    """The events that the page lists, counted by kind."""
    kinds = await page.locator(".events-scroll tr.event .kind").all_inner_texts()
    return Counter(kinds)


async def counted_by_api(site: Site, session: str) -> Counter[str]:
    """The entries of the session that the API answers, counted by kind, in the page's words."""
    entries: list[Any] = (await site.get(f"/v1/sessions/{quote(session, safe='')}/timeline", limit="1000"))["items"]
    return Counter(each["kind"].replace(".", " ").replace("_", " ") for each in entries)


async def test_a_page_that_stays_open_through_restarts_a_kill_and_a_rebuild_shows_every_entry_once(
    site: Site,
) -> None:
    call = whole_call("openvidu", now() - 160 * S)
    parts: list[list[SampleDelivery]] = [
        call[at : at + len(call) // 5 + 1] for at in range(0, len(call), len(call) // 5 + 1)
    ]
    await site.get("/v1/sessions", at_least=str(await site.post("openvidu", *parts[0])))
    async with site.page(await site.newest("openvidu"), expected=AWAY) as page:
        await page.set_viewport_size({"width": 1280, "height": 3600})
        await page.wait_for_selector(".enhanced .events-scroll tr.event")
        # Tall enough that every row of this call is in the document.
        await page.locator(".events-scroll").evaluate(
            "(each) => { each.style.maxHeight = each.style.height = '3000px' }"
        )
        session = (await site.get("/v1/sessions"))["items"][0]["id"]

        async def wait_until_shown(wanted: Counter[str]) -> None:
            await until(lambda: shown(page), wanted, 30)

        await site.running.stop()
        await site.running.start()
        await site.get("/v1/sessions", at_least=str(await site.post("openvidu", *parts[1])))
        await wait_until_shown(await counted_by_api(site, session))
        await site.running.kill()
        await site.running.start()
        await site.get("/v1/sessions", at_least=str(await site.post("openvidu", *parts[2])))
        await wait_until_shown(await counted_by_api(site, session))
        code, _, stderr = await site.running.run("rebuild")
        assert code == 0, stderr
        await site.get("/v1/sessions", at_least=str(await site.post("openvidu", *parts[3])))
        await wait_until_shown(await counted_by_api(site, session))
        await site.running.stop()
        code, _, stderr = await site.running.run("rebuild")
        assert code == 0, stderr
        await site.running.start()
        await site.get("/v1/sessions", at_least=str(await site.post("openvidu", *(sum(parts[4:], [])))))
        whole = await counted_by_api(site, session)
        assert whole["session ended"] == 1
        await wait_until_shown(whole)
        await expect(page.locator("#title .badge.ended")).to_have_count(1)


async def test_the_list_of_calls_is_updated_again_after_a_restart(site: Site) -> None:
    async with site.page("/", expected=AWAY) as page:
        await expect(page.locator("#live-status")).to_have_text("Live")
        await page.evaluate("window.notReloaded = true")
        await site.running.stop()
        await expect(page.locator("#live-status")).to_have_text("Reconnecting…")
        await site.running.start()
        await site.post("livekit", *whole_call("livekit", now() - 10 * S)[:3])
        await expect(page.locator("tr[data-id^='lk:'] .badge.open")).to_have_count(1)
        await expect(page.locator("#live-status")).to_have_text("Live")
        assert await page.evaluate("window.notReloaded")
