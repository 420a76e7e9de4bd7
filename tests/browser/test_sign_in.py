"""Signing in and out with a browser: with a token and with a one-time link, and who cannot read the cookie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.support.browser import COOKIE, Site, running_site
from tests.support.server import READ_KEY, SECRETS, TOKEN, Running
from tracker.demo.show import config_text

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = ("the server responded with a status of 401",)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(tmp_path_factory.mktemp("sign_in"), filled=False) as found:
        yield found


async def test_a_token_signs_in_and_opens_the_wanted_page_and_signing_out_returns_to_sign_in(site: Site) -> None:
    async with site.page("/sources?", signed_in=False, expected=REFUSED) as page:
        assert "/sign-in" in page.url
        assert await page.evaluate("document.activeElement.id") == "token"
        await page.keyboard.type("guessed")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.fill("#token", TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/sources*")
        cookies = {each["name"]: each for each in await page.context.cookies()}
        assert cookies[COOKIE]["httpOnly"]
        assert cookies[COOKIE]["sameSite"] == "Strict"
        assert await page.evaluate("document.cookie") == ""
        await page.get_by_role("link", name="Rooms").click()
        await page.wait_for_url("**/rooms")
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url("**/sign-in")
        assert COOKIE not in {each["name"] for each in await page.context.cookies()}
        await page.goto(site.running.url + "/rooms")
        assert "/sign-in" in page.url
        await page.go_back()
        assert await page.locator("nav[aria-label=Pages]").count() == 0, "the browser shows no cached page"


async def test_signing_in_works_without_scripts(site: Site) -> None:
    async with site.page("/log", signed_in=False, java_script_enabled=False) as page:
        await page.fill("#token", TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/log")


async def test_an_open_list_shows_that_the_session_was_signed_out_elsewhere(site: Site) -> None:
    async with site.page("/", expected=("status of 401",)) as page:
        await expect(page.locator("#live-status")).to_have_text("Live")
        await page.context.clear_cookies()
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await expect(page.locator("#live-status")).to_contain_text("Signed out")


async def test_a_sign_in_link_works_once(site: Site, tmp_path: Path) -> None:
    lines = config_text(tmp_path, SECRETS, READ_KEY, 0).splitlines()
    keyless = "\n".join(each for each in lines if each != "[access]" and not each.startswith("keys = [{"))
    running = await Running(tmp_path, config=keyless).start(init=True)
    alone = Site(running, site.web, site.browser)
    try:
        link = next(word for word in running.printed.read_text().split() if "/open?code=" in word)
        path = link.removeprefix(running.url)
        async with alone.page("/", signed_in=False) as page:
            assert "Open the link" in await page.locator("main").inner_text()
        async with alone.page(path, signed_in=False) as page:
            await page.wait_for_url(running.url + "/")
            await expect(page.locator("#live-status")).to_have_text("Live")
            await page.goto(link)
            await page.wait_for_url(running.url + "/")
            await page.get_by_role("button", name="Sign out").click()
            await page.wait_for_url("**/sign-in")
        async with alone.page(path, signed_in=False, expected=REFUSED) as page:
            assert "used before" in await page.locator("body").inner_text()
    finally:
        await running.stop()
