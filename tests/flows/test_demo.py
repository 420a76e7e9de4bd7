"""The show runs to its end, and every delivery in it is answered as it must be."""

from __future__ import annotations

import io

from rich.console import Console

from tracker.demo import SOURCES, run


def test_the_demo_shows_ten_sessions_and_no_wrong_answer() -> None:
    page = io.StringIO()
    assert run(speed=100, keep=False, console=Console(file=page, width=220)) == 0, page.getvalue()
    text = page.getvalue()
    for name, vendor in ((name, vendor) for vendor, name in SOURCES.items()):
        assert f"{name} ({vendor})" in text
        assert f"{name}:" in text
    assert "Timeline of lk:RM_" in text
    assert "participant.joined" in text
