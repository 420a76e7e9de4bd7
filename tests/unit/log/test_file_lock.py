"""One server serves a log; a second one is refused, even if the lock file was removed meanwhile."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tracker.errors import LogUnavailable
from tracker.log.file_lock import lock


def test_a_second_server_is_told_who_serves_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with lock(path), pytest.raises(LogUnavailable, match=f"process {os.getpid()} on "):
        lock(path)
    lock(path).close()


def test_a_lock_whose_file_is_removed_meanwhile_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock_file, removed = tmp_path / "log.db", tmp_path / "log.db.lock", []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(lock_file.unlink())
        real(descriptor, operation)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(path), pytest.raises(LogUnavailable, match="already served"):
        lock(path)
