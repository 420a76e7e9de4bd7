"""The memory engine keeps the log's contract."""

from __future__ import annotations

import pytest

from tests.contracts.log_contract import LogContract
from tests.support.memory_log import MemoryLog


class TestMemoryLog(LogContract):
    """The whole contract."""

    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog()
