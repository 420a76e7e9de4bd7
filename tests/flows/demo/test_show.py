"""`tracker demo` runs to its end, and every delivery gets the right answer."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import sys

import aiohttp
from rich.console import Console

from tracker.demo.show import SOURCES, run

WITH_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Starts a program that Ctrl-C stops. Children of a shell's background job would ignore SIGINT."""


def test_the_demo_shows_all_vendors_and_no_wrong_answer() -> None:
    page = io.StringIO()
    assert run(speed=100, keep=False, console=Console(file=page, width=220)) == 0, page.getvalue()
    text = page.getvalue()
    for name, vendor in ((name, vendor) for vendor, name in SOURCES.items()):
        assert f"{name} ({vendor})" in text
        assert f"{name}:" in text
    assert "Timeline of lk:RM_" in text
    assert "participant.joined" in text


async def test_the_printed_link_opens_the_pages_and_every_printed_url_answers() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WITH_CTRL_C, sys.executable, "-m", "tracker", "demo", "--speed", "500", "--keep",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    text = ""
    try:
        async with asyncio.timeout(60):
            while "Ctrl-C" not in text:
                line = await process.stdout.readline()
                assert line, text
                text += line.decode()
        link = re.search(r"\S+/open\?code=\S+", text)
        assert link, text
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            for _ in ("opens", "leads on"):
                async with browser.get(link[0]) as answer:
                    assert (answer.status, answer.url.path) == (200, "/")
                    assert "daily-standup" in await answer.text()
            addresses = re.findall(r"^  (http://\S+/\S*)$", text.partition("Look at it")[2], re.MULTILINE)
            assert len(addresses) >= 6
            for address in addresses:
                async with browser.get(address, allow_redirects=False) as answer:
                    assert answer.status == 200, address
        async with aiohttp.ClientSession() as other, other.get(link[0]) as answer:
            assert answer.status == 401
    finally:
        process.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(process.wait(), 30)
    assert code == 0
