"""Every page in a real browser: nothing goes wrong in it, it fits a telephone, and everybody can read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Error

from tests.support.browser import AXE, EVIL, Watching, watching
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
    *(f"newest {vendor}" for vendor in VENDORS),
    "a room",
    "several",
)
REFUSED = ("/sessions/nobody", "/?state=asleep")
PAPER = 690
"""A4 between its margins, CSS px."""
NARROW_TOO = {"/", "newest streamrec"}
"""Pages that are arranged otherwise on a telephone."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watching]:
    async with watching(tmp_path_factory.mktemp("every_page")) as found:
        yield found


async def path_of(house: Watching, page: str) -> str:
    """The address behind a name: what sessions and rooms are called is up to the vendors."""
    if page.startswith("newest "):
        return await house.newest(page.removeprefix("newest "))
    session = (await house.get("/v1/sessions", source=SOURCES["plugnmeet"]))["items"][0]
    if page == "a room":
        return f"/rooms/{session['source']}/{quote(session['room']['id'], safe='')}"
    if page == "several":
        return f"/sessions/{quote(session['room']['id'], safe='')}"
    return page


async def faults(page, *rules: str) -> list[str]:
    """What axe-core calls serious or critical, one line each."""
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


async def test_no_page_asks_another_host_breaks_the_policy_is_too_wide_or_shuts_anybody_out(house: Watching) -> None:
    # Several at once: most of the time of each is waiting.
    some = asyncio.Semaphore(3)

    async def seen(name: str) -> list[str]:
        async with some:
            try:
                return await wrong_with(house, name)
            except (AssertionError, Error) as problem:
                return [str(problem)]

    names = (*PAGES, *REFUSED)
    found = dict(zip(names, await asyncio.gather(*map(seen, names)), strict=True))
    assert not {name: wrong for name, wrong in found.items() if wrong}


async def wrong_with(house: Watching, name: str) -> list[str]:
    """One page: alone with our server, in light and dark, wide and narrow; what is wrong with it."""
    forgiving = ("the server responded with a status of 4",) if name in REFUSED else ()
    async with house.page(await path_of(house, name), forgiving=forgiving, reduced_motion="reduce") as page:
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


async def test_the_description_of_the_api_asks_nobody_else_either(house: Watching) -> None:
    async with house.page("/docs") as page:
        await page.get_by_text("/v1/sessions/{id}/timeline").first.wait_for()


async def test_signed_out_the_way_in_is_for_everybody_too(house: Watching) -> None:
    async with house.page("/log", signed_in=False, color_scheme="dark") as page:
        assert page.url.endswith("/sign-in?next=%2Flog")
        assert await faults(page) == []
        await page.evaluate("document.documentElement.removeAttribute('lang')")
        assert [said.partition(":")[0] for said in await faults(page)] == ["html-has-lang"], "axe is awake"


@pytest.mark.parametrize("name", ["/", "/people", "newest livekit"])
async def test_what_is_dark_is_dark(house: Watching, name: str) -> None:
    async with house.page(await path_of(house, name), color_scheme="dark") as page:
        assert await lightness(page, "background-color") < 0.15
        assert await lightness(page, "color") > 0.8
        await page.emulate_media(color_scheme="light")
        assert await lightness(page, "background-color") > 0.9
        assert await lightness(page, "color") < 0.2


async def lightness(page, name: str) -> float:
    """0 black … 1 white: the mean of the three channels."""
    return await page.evaluate(
        "(name) => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((s, n) => s + n / 765, 0)",
        name,
    )


async def test_times_are_in_the_readers_zone_and_utc_is_one_hover_away(house: Watching) -> None:
    wanted = (await house.get("/v1/sessions", limit="1"))["items"][0]["started_at"]
    for path in ("/", await house.newest("livekit"), "/sources", "/log"):
        async with house.page(path, timezone_id="Asia/Tehran", locale="en-GB") as page:
            assert "Asia/Tehran" in await page.locator("footer [data-zone]").inner_text()
            shown = await page.locator("time[datetime]:visible").evaluate_all(
                "(all) => all.map((each) => [each.dateTime, each.textContent, each.title])"
            )
            assert shown
            for moment, text, title in shown:
                hour, minute = int(moment[11:13]), int(moment[14:16])
                there = (hour * 60 + minute + 210) % 1440
                assert f"{there // 60:02}:{there % 60:02}:{moment[17:19]}" in text, (path, moment, text)
                assert title.startswith(moment[:10] + " " + moment[11:19]), (path, title)
                assert title.endswith("UTC")
            if path == "/":
                assert wanted in [moment for moment, _, _ in shown]


async def test_a_participant_named_like_a_script_is_shown_as_text(house: Watching) -> None:
    for path, place in (
        (f"/people?identity={quote(EVIL)}", "main"),
        ("/people", "main"),
        (await house.newest("livekit"), "#people"),
        (await house.newest("livekit"), "#events"),
        (f"/?identity={quote(EVIL)}", "#identity"),
    ):
        async with house.page(path) as page:
            if place == "#events":
                await page.wait_for_selector(".enhanced .events-scroll tr.event")
            found = page.locator(place)
            shown = await found.input_value() if place == "#identity" else await found.inner_text()
            assert EVIL in shown, path
            assert await page.locator("script:not([src])").count() == 0
