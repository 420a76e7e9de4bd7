"""A session that was signed out stays signed out until its token expires."""

from __future__ import annotations

import os
from pathlib import Path

from tracker.api.signed_out import SignedOutSessions

ONE, OTHER = b"1" * 32, b"2" * 32


def test_a_new_process_remembers_sessions_until_their_tokens_expire(tmp_path: Path) -> None:
    path = tmp_path / "signed-out"
    before = os.umask(0)
    try:
        SignedOutSessions(path).add(ONE, 100, now=1)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    sessions = SignedOutSessions(path)
    assert ONE in sessions
    sessions.add(OTHER, None, now=101)
    assert ONE not in SignedOutSessions(path)
    assert OTHER in SignedOutSessions(path)
    sessions.discard(OTHER)
    assert OTHER not in SignedOutSessions(path)


def test_a_damaged_line_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "signed-out"
    path.write_bytes(b"\xff no line\n" + ONE.hex().encode() + b" 100\n\n")
    assert ONE in SignedOutSessions(path)


def test_without_a_place_to_write_this_process_remembers(tmp_path: Path) -> None:
    sessions = SignedOutSessions(tmp_path / "missing" / "signed-out")
    sessions.add(ONE, 100, now=1)
    assert ONE in sessions
