"""Cases from the field over HTTP: signed deliveries are sent, and the API's answers are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import cases


@pytest.mark.parametrize("path", cases.PATHS, ids=lambda path: path.stem)
async def test_a_case_from_the_field_is_answered_right(path: Path, tmp_path: Path) -> None:
    case = cases.read(path)
    async with cases.case_server(case["hook"], tmp_path) as server:
        assert await server.play(case) == [], case["right_result"]
