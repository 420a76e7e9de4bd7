"""Which values of `Host` name this machine."""

from __future__ import annotations

import pytest

from tracker.server.host_check import is_local


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "127.255.0.3", "[::1]", "[::1]:8080", " localhost "],
)
def test_this_machine(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example:127", "128.0.0.1", "0.0.0.0",
     "10.0.0.1", "2130706433", "0x7f.1", "127.1", "::1", "[::2]", "localhost:x", "localhost:8080:1", "localhost,evil.example", "localhost evil",
     "127.0.0.1\x00", "١٢٧.0.0.1", "[::1", "a[::1]", "localhost/"],
)  # fmt: skip
def test_another_machine(host: str) -> None:
    assert not is_local(host)
