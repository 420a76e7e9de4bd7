"""Only one server can serve a log. A second one is refused, even if the lock file was removed in between."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tracker.errors import LogUnavailable
from tracker.log.file_lock import lock


def test_a_second_server_gets_an_error_that_names_the_process_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with lock(path), pytest.raises(LogUnavailable, match=f"process {os.getpid()} on "):
        lock(path)
    lock(path).close()


def test_a_lock_whose_file_is_removed_in_between_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock_file, removed = tmp_path / "log.db", tmp_path / "log.db.lock", []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(lock_file.unlink())
        real(descriptor, operation)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(path), pytest.raises(LogUnavailable, match="already served"):
        lock(path)
