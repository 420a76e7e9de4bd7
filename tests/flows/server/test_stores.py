"""A log or views file that somebody changed or damaged, under `tracker serve` and the commands."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp

from tests.support.server import Running, now
from tracker.demo.calls import whole_call

SWALLOW = "CREATE TRIGGER swallow BEFORE INSERT ON records BEGIN SELECT RAISE(IGNORE); END"


def run_sql(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(sql)


async def test_serve_and_import_refuse_a_log_with_a_planted_trigger_and_verify_names_it(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    run_sql(running.log_path, SWALLOW)
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(whole_call("livekit", now())[0].body)
    for command in (("serve",), ("import", "lk", str(lines))):
        code, out, complaint = await running.run(*command)
        assert code != 0, command
        assert "the trigger 'swallow' was added" in complaint, command
        assert "Traceback" not in out + complaint
    code, out, _ = await running.run("verify")
    assert code == 1
    assert "the trigger 'swallow' was added" in out


async def test_a_trigger_planted_under_a_running_server_lets_no_delivery_be_answered(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    first, second = whole_call("livekit", now())[:2]
    try:
        async with aiohttp.ClientSession() as web:
            assert (await running.post(web, "livekit", first))[0] == 200
            run_sql(running.log_path, SWALLOW)
            status, problem = await running.post(web, "livekit", second)
            assert status == 503
            assert "swallow" not in str(problem)
            async with web.get(f"{running.url}/readyz") as answer:
                assert answer.status == 503
            assert "the trigger 'swallow' was added" in running.printed.read_text()
            run_sql(running.log_path, "DROP TRIGGER swallow")
            assert await running.post(web, "livekit", second) == (200, {"position": 2, "duplicate": False})
    finally:
        await running.stop()
