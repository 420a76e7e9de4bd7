"""The list of calls in a real Chromium: live updates, filters in the URL, paging, and use without scripts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.support.browser import EVIL, Site, running_site
from tests.support.server import now
from tracker.demo.show import SOURCES
from tracker.demo.calls import VENDORS, whole_call

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = 1_000_000
FIELDS = {
    "q": "consult",
    "state": "ended",
    "source": "ov",
    "room": "daily-standup",
    "identity": EVIL,
    "from": "2020-02-29",
    "to": "2030-01-01",
    "min_duration_ms": "60000",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(tmp_path_factory.mktemp("calls")) as found:
        yield found


async def ids(page: Page) -> list[str]:
    """The ids of the calls in the list, in order."""
    return await page.locator("tbody tr[data-id]").evaluate_all("(all) => all.map((each) => each.dataset.id)")


def filters_in(page: Page) -> list[tuple[str, str]]:
    """The filters in the page's URL."""
    return [pair for pair in parse_qsl(urlsplit(page.url).query, keep_blank_values=True) if pair[1]]


async def ids_from_api(site: Site, **query: str) -> list[str]:
    """The same list from the API."""
    return [each["id"] for each in (await site.get("/v1/sessions", limit="1000", **query))["items"]]


async def field_value(page: Page, name: str) -> Any:
    field = page.locator(f"form.filters [name={name}]")
    if name == "has":
        return await field.evaluate_all("(all) => all.filter((each) => each.checked).map((each) => each.value)")
    return await field.input_value()


async def choose(page: Page, name: str, value: str) -> None:
    field = page.locator(f"form.filters [name={name}]")
    if await field.evaluate("(each) => each.tagName") == "SELECT":
        await field.select_option(value)
    else:
        await field.fill(value)


async def test_every_filter_of_the_form_is_in_the_url_and_in_the_form_again(site: Site) -> None:
    async with site.page("/") as page:
        names = await page.locator("form.filters [name]:not([type=hidden])").evaluate_all(
            "(all) => all.map((e) => e.name)"
        )
        assert set(names) == {*FIELDS, "has"}, "this test covers every filter of the form"
        everything = await ids(page)
        for name, value in FIELDS.items():
            await page.goto(site.running.url + "/")
            await choose(page, name, value)
            await page.locator("form.filters button").click()
            await page.wait_for_url("**/?*")
            assert filters_in(page) == [(name, value)]
            assert page.url.count("=") == 1, "empty fields are left out"
            assert await field_value(page, name) == value
            wanted = await ids_from_api(site, **{name: value})
            assert await ids(page) == wanted
            assert set(wanted) <= set(everything)
        await page.goto(site.running.url + "/?" + "has=recording")
        await page.get_by_label("supervisor", exact=True).check()
        await page.locator("form.filters button").click()
        await page.wait_for_url("**has=supervisor*")
        assert sorted(filters_in(page)) == [("has", "recording"), ("has", "supervisor")]
        assert await field_value(page, "has") == ["recording", "supervisor"]
        assert {each.partition(":")[0] for each in await ids(page)} == {"rec"}
        await page.go_back()
        await expect(page.get_by_label("recording", exact=True)).to_be_checked()
        await expect(page.get_by_label("supervisor", exact=True)).not_to_be_checked()
        await page.get_by_role("link", name="Clear").click()
        await page.wait_for_url(site.running.url + "/")
        assert await ids(page) == everything


async def test_without_scripts_all_filters_together_are_in_the_url_and_in_the_form_again(site: Site) -> None:
    async with site.page("/", java_script_enabled=False) as page:
        for name, value in FIELDS.items():
            await choose(page, name, value)
        await page.locator("form.filters button").click()
        await page.wait_for_url("**/?*")
        assert dict(filters_in(page)) == FIELDS
        assert {name: await field_value(page, name) for name in FIELDS} == FIELDS
        assert await ids(page) == await ids_from_api(site, **FIELDS)


async def test_search_finds_a_call_by_any_id_of_its_vendor(site: Site) -> None:
    async with site.page("/") as page:
        for vendor in VENDORS:
            session = (await site.get("/v1/sessions", source=SOURCES[vendor]))["items"][-1]
            vendor_ids = [value for values in session["vendor_ids"].values() for value in values]
            assert vendor_ids
            for value in vendor_ids[:2]:
                await page.fill("#q", value)
                async with page.expect_navigation():
                    await page.keyboard.press("Enter")
                assert filters_in(page) == [("q", value)]
                assert session["id"] in await ids(page)


@pytest.mark.parametrize("has_script", [True, False], ids=["with scripts", "without"])
async def test_paging_shows_each_call_of_the_list_once(site: Site, has_script: bool) -> None:
    wanted = await ids_from_api(site, state="ended")
    async with site.page("/?limit=3&state=ended", java_script_enabled=has_script) as page:
        seen = await ids(page)
        while await page.get_by_role("link", name="Older").count():
            before = page.url
            await page.get_by_role("link", name="Older").click()
            await page.wait_for_url(lambda url: url != before)
            seen += await ids(page)
        assert seen == wanted
        assert len(seen) >= 10
        await page.get_by_role("link", name="First page").click()
        await page.wait_for_url("**/?*limit=3*")
        assert await ids(page) == wanted[:3]


async def test_tab_reaches_every_control_in_document_order_with_a_visible_focus(
    site: Site,
) -> None:
    for path in ("/", await site.newest("livekit")):
        async with site.page(path, reduced_motion="reduce") as page:
            if path != "/":
                await page.wait_for_selector(".enhanced .events-scroll tr.event")
            await page.evaluate("window.before = document.body")
            stops = []
            for n in range(40):
                await page.keyboard.press("Tab")
                stop = await page.evaluate(
                    """() => {
                        const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
                        // The parts of a date are stops of one field.
                        const follows = at === window.before || Boolean(window.before.compareDocumentPosition(at) & (4 | 16));
                        window.before = at;
                        return { name: at.ariaLabel || at.textContent.trim().slice(0, 40) || at.name || at.tagName, follows,
                            tag: at.tagName, isShown: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                            isThere: box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0 };
                    }"""
                )
                if stop["tag"] == "BODY":
                    break
                assert stop["follows"], (path, n, stop)
                assert stop["isShown"], (path, n, stop)
                assert stop["isThere"], (path, n, stop)
                stops.append(stop["name"])
            assert stops[0] == "Skip to the content"
            assert len(stops) > 20
            await page.goto(site.running.url + path)
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            assert await page.evaluate("document.activeElement.id") == "main"


async def test_without_scripts_the_list_is_complete(site: Site) -> None:
    async with site.page("/", java_script_enabled=False) as page:
        assert await ids(page) == await ids_from_api(site)
        assert not await page.locator("#live-status").is_visible()
        assert "UTC" in await page.locator("tbody tr .began").first.inner_text()
        await page.locator("tbody tr th a").first.click()
        await page.wait_for_url("**/sessions/*")
        assert await page.locator("#lanes-still svg .bar").count() > 2


async def test_on_paper_only_the_list_is_printed(site: Site) -> None:
    async with site.page("/", color_scheme="dark") as page:
        await page.emulate_media(media="print", color_scheme="dark")
        for gone in (".top nav", "form.filters", ".out"):
            assert not await page.locator(gone).first.is_visible(), gone
        assert await page.locator("table.sessions").is_visible()
        assert await page.pdf(format="A4")


async def test_calls_of_all_vendors_appear_and_end_in_an_open_page(site: Site) -> None:
    calls = {vendor: whole_call(vendor, now() - 160 * S, seed=5) for vendor in VENDORS}
    known = set(await ids_from_api(site))
    async with site.page("/") as page, contextlib.AsyncExitStack() as stack:
        only = [await stack.enter_async_context(site.page(f"/?source={SOURCES[vendor]}")) for vendor in VENDORS]
        for each in (page, *only):
            await expect(each.locator("#live-status")).to_have_text("Live")
            await each.evaluate("window.notReloaded = true")
        open_now = page.locator("#now a[href='/?state=open']")
        before = int(await open_now.inner_text())
        for vendor, call in calls.items():
            await site.post(vendor, *call[:4])
        for each in only:
            fresh = each.locator("tbody tr[data-id]:first-child")
            await expect(fresh.locator(".badge.open")).to_have_count(1)
            await expect(fresh.locator(".ticking")).to_have_count(1)
            assert await fresh.get_attribute("data-id") not in known
        await expect(open_now).to_have_text(str(before + len(VENDORS)))
        assert set(await ids(page)) - known == {(await ids(each))[0] for each in only}
        for vendor, call in calls.items():
            await site.post(vendor, *call[4:])
        for each, vendor in zip(only, VENDORS, strict=True):
            fresh = each.locator("tbody tr[data-id]:first-child")
            await expect(fresh.locator(".badge.open")).to_have_count(0)
            await expect(fresh.locator(".state .badge.ended")).not_to_have_count(0)
            assert await ids(each) == await ids_from_api(site, source=SOURCES[vendor])
        await expect(open_now).to_have_text(str(before))
        for each in (page, *only):
            assert await each.evaluate("window.notReloaded"), "no page was reloaded"
