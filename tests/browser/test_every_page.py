"""Every page in a real browser: no errors, it fits a phone, and it is accessible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Error

from tests.support.browser import AXE, EVIL, Site, running_site
from tracker.demo.show import SOURCES
from tracker.demo.calls import VENDORS

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = (
    "/",
    "/?state=ended&has=recording&q=a",
    "/rooms",
    "/people",
    f"/people?identity={quote(EVIL)}",
    "/recordings",
    "/supervisors",
    "/statistics",
    "/sources",
    "/log",
    "/log/1",
    "/sign-in",
    # Calls of the other vendors have the same parts, and `test_session_page.py` opens them all.
    *(f"newest {vendor}" for vendor in VENDORS if vendor not in {"jaas", "jitsi", "plugnmeet"}),
    "a room",
    "several",
)
REFUSED = ("/sessions/nobody", "/?state=asleep")
PAPER = 690
"""Width of A4 between its margins, CSS px."""
NARROW_TOO = {"/", "newest streamrec"}
"""Pages that have another layout on a phone."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(tmp_path_factory.mktemp("every_page")) as found:
        yield found


async def path_of(site: Site, page: str) -> str:
    """The path of a page by its name in `PAGES`; ids of sessions and rooms are the vendors'."""
    if page.startswith("newest "):
        return await site.newest(page.removeprefix("newest "))
    session = (await site.get("/v1/sessions", source=SOURCES["plugnmeet"]))["items"][0]
    if page == "a room":
        return f"/rooms/{session['source']}/{quote(session['room']['id'], safe='')}"
    if page == "several":
        return f"/sessions/{quote(session['room']['id'], safe='')}"
    return page


async def faults(page, *rules: str) -> list[str]:
    """The violations that axe-core rates serious or critical, one line each."""
    if not await page.evaluate("() => Boolean(window.axe)"):
        await page.evaluate(AXE)
    found = await page.evaluate(
        """(rules) => axe.run(document, {
            resultTypes: ["violations"], ...(rules.length && { runOnly: { type: "rule", values: rules } }),
        }).then((r) => r.violations.filter((v) => ["serious", "critical"].includes(v.impact))
            .flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target.join(" ")}: ${n.failureSummary}`)))""",
        list(rules),
    )
    return found


async def test_every_page_stays_on_its_host_keeps_the_policy_fits_the_window_and_is_accessible(site: Site) -> None:
    # Several at once: each spends most of its time waiting.
    some = asyncio.Semaphore(3)

    async def check(name: str) -> list[str]:
        async with some:
            try:
                return await wrong_with(site, name)
            except (AssertionError, Error) as problem:
                return [str(problem)]

    names = (*PAGES, *REFUSED)
    found = dict(zip(names, await asyncio.gather(*map(check, names)), strict=True))
    assert not {name: wrong for name, wrong in found.items() if wrong}


async def wrong_with(site: Site, name: str) -> list[str]:
    """The problems of one page: in light and dark, wide and narrow, and on paper."""
    expected = ("the server responded with a status of 4",) if name in REFUSED else ()
    async with site.page(await path_of(site, name), expected=expected, reduced_motion="reduce") as page:
        if "newest" in name:
            await page.wait_for_selector(".enhanced .events-scroll tr.event")
        assert (await page.title()).endswith("Tracker")
        wrong = await faults(page)
        await page.emulate_media(color_scheme="dark")
        wrong += await faults(page, "color-contrast", "link-in-text-block")
        for width in (1280, 390):
            await page.set_viewport_size({"width": width, "height": 844})
            wide = await page.evaluate("document.documentElement.scrollWidth")
            wrong += [f"{wide} px wide in a window of {width}"] if wide > width else []
        if name in NARROW_TOO:
            wrong += await faults(page)
        await page.emulate_media(media="print")
        await page.set_viewport_size({"width": PAPER, "height": 970})
        wide = await page.evaluate("document.documentElement.scrollWidth")
        return [*wrong, f"{wide} px on paper of {PAPER}"] if wide > PAPER else wrong


async def test_the_api_description_makes_no_request_to_another_host(site: Site) -> None:
    async with site.page("/docs") as page:
        await page.get_by_text("/v1/sessions/{id}/timeline").first.wait_for()


async def test_the_sign_in_page_is_accessible(site: Site) -> None:
    async with site.page("/log", signed_in=False, color_scheme="dark") as page:
        assert page.url.endswith("/sign-in?next=%2Flog")
        assert await faults(page) == []
        await page.evaluate("document.documentElement.removeAttribute('lang')")
        assert [fault.partition(":")[0] for fault in await faults(page)] == ["html-has-lang"], (
            "axe reports a fault that was planted"
        )


@pytest.mark.parametrize("name", ["/", "/people", "newest livekit"])
async def test_pages_are_dark_in_dark_mode_and_light_in_light_mode(site: Site, name: str) -> None:
    async with site.page(await path_of(site, name), color_scheme="dark") as page:
        assert await lightness(page, "background-color") < 0.15
        assert await lightness(page, "color") > 0.8
        await page.emulate_media(color_scheme="light")
        assert await lightness(page, "background-color") > 0.9
        assert await lightness(page, "color") < 0.2


async def lightness(page, name: str) -> float:
    """The mean of the three channels: 0 is black, 1 is white."""
    return await page.evaluate(
        "(name) => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((s, n) => s + n / 765, 0)",
        name,
    )


async def test_times_are_in_the_readers_time_zone_and_their_titles_in_utc(site: Site) -> None:
    wanted = (await site.get("/v1/sessions", limit="1"))["items"][0]["started_at"]
    for path in ("/", await site.newest("livekit"), "/sources", "/log"):
        async with site.page(path, timezone_id="Asia/Tehran", locale="en-GB") as page:
            assert "Asia/Tehran" in await page.locator("footer [data-zone]").inner_text()
            shown = await page.locator("time[datetime]:visible").evaluate_all(
                "(all) => all.map((each) => [each.dateTime, each.textContent, each.title])"
            )
            assert shown
            for moment, text, title in shown:
                hour, minute = int(moment[11:13]), int(moment[14:16])
                local_minutes = (hour * 60 + minute + 210) % 1440
                assert f"{local_minutes // 60:02}:{local_minutes % 60:02}:{moment[17:19]}" in text, (path, moment, text)
                assert title.startswith(moment[:10] + " " + moment[11:19]), (path, title)
                assert title.endswith("UTC")
            if path == "/":
                assert wanted in [moment for moment, _, _ in shown]


async def test_a_participant_named_like_a_script_is_shown_as_text(site: Site) -> None:
    for path, place in (
        (f"/people?identity={quote(EVIL)}", "main"),
        ("/people", "main"),
        (await site.newest("livekit"), "#people"),
        (await site.newest("livekit"), "#events"),
        (f"/?identity={quote(EVIL)}", "#identity"),
    ):
        async with site.page(path) as page:
            if place == "#events":
                await page.wait_for_selector(".enhanced .events-scroll tr.event")
            found = page.locator(place)
            shown = await found.input_value() if place == "#identity" else await found.inner_text()
            assert EVIL in shown, path
            assert await page.locator("script:not([src])").count() == 0
