"""Names the test that left a connection to SQLite open, and where it was opened. A pytest plugin.

Python warns of such a connection when it is collected, which may be during any later test. That test would fail without
a fault of its own, so `pyproject.toml` ignores the warning, and the summary of the run names the test that opened it.
"""

from __future__ import annotations

import asyncio
import traceback
import weakref
from collections.abc import Generator
from typing import Any

import aiosqlite
import pytest

PROPERTY = "connection left open"

_open: weakref.WeakKeyDictionary[aiosqlite.Connection, str] = weakref.WeakKeyDictionary()
"""The connections that the running test opened and did not close, and where it opened them."""
_init, _stop = aiosqlite.Connection.__init__, aiosqlite.Connection.stop


def _recorded_init(self: aiosqlite.Connection, *arguments: Any, **options: Any) -> None:
    _init(self, *arguments, **options)
    _open[self] = "".join(traceback.format_stack(limit=12)[:-1])


def _recorded_stop(self: aiosqlite.Connection) -> asyncio.Future[Any] | None:
    _open.pop(self, None)
    return _stop(self)


aiosqlite.Connection.__init__ = _recorded_init
aiosqlite.Connection.stop = _recorded_stop


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Connections that fixtures of a module opened are not this test's."""
    _open.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After the fixtures of the test are gone, note in its report which of its connections are open."""
    report = yield
    if call.when == "teardown":
        report.user_properties += [(PROPERTY, opened_at) for opened_at in _open.values()]
        _open.clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List them."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    terminalreporter.section(f"{PROPERTY}: {report.nodeid}")
                    terminalreporter.write_line(str(value))
