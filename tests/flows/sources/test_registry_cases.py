"""Cases from the field over HTTP: signed deliveries are sent, and the API's answers are compared."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support import cases


@pytest.mark.parametrize("path", cases.PATHS, ids=lambda path: path.stem)
async def test_a_case_from_the_field_is_answered_right(path: Path, tmp_path: Path) -> None:
    case = cases.read(path)
    async with cases.case_server(case["hook"], tmp_path) as server:
        assert await server.play(case) == [], case["right_result"]


@pytest.mark.parametrize("path", cases.PATHS, ids=lambda path: path.stem)
async def test_a_case_is_answered_right_at_its_end_whatever_the_order_and_the_repeats(
    path: Path, tmp_path: Path
) -> None:
    case = cases.read(path)
    sends = [step for step in case["steps"] if "send" in step]
    for seed in range(3):
        chance = random.Random(seed)
        shuffled = chance.sample(sends, len(sends)) + chance.sample(sends, 2)
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with cases.case_server(case["hook"], folder) as server:
            assert await server.play(case | {"steps": [*shuffled, case["steps"][-1]]}) == [], case["right_result"]
