"""A declaration is a record of the log: it is appended before its first delivery, a change rebuilds, and it is evidence."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.server import READ, READ_KEY, SECRETS, Running, now
from tracker.config.declarations import shipped_declaration
from tracker.demo.calls import whole_call
from tracker.demo.show import config_text

HOUR = 3_600_000_000


def with_declaration(folder: Path, text: str) -> str:
    """The config of every vendor, where the declared source has a file of its own."""
    (folder / "mine.toml").write_text(text, "utf-8")
    return config_text(folder, SECRETS, READ_KEY, 0).replace('declaration = "zoom"', 'declaration = "mine.toml"')


async def records_of_tracker(running: Running, web: aiohttp.ClientSession) -> list[dict[str, Any]]:
    found = (await running.get(web, "/v1/records", source="tracker", limit="1000"))["items"]
    return [each for each in found if each["event"] == "declaration"]


async def test_a_declaration_is_recorded_before_its_first_delivery_and_a_change_rebuilds_the_views(
    tmp_path: Path,
) -> None:
    shipped = shipped_declaration("zoom")
    running = await Running(tmp_path, config=with_declaration(tmp_path, shipped)).start(init=True)
    call = whole_call("declared", now() - HOUR)
    try:
        async with aiohttp.ClientSession() as web:
            assert await running.post(web, "livekit", whole_call("livekit", now() - HOUR)[0]) == (
                200, {"position": 1, "duplicate": False},
            )  # fmt: skip
            # Nobody makes Tracker record anything without the secret.
            async with web.post(f"{running.url}/hooks/zoom", data=call[0].body) as answer:
                assert answer.status == 401
            answers = await asyncio.gather(*(running.post(web, "declared", each) for each in call))
            assert {status for status, _ in answers} == {200}
            assert sorted(answer["position"] for _, answer in answers) == list(range(3, 3 + len(call)))
            head = 2 + len(call)
            (session,) = (await running.get(web, "/v1/sessions", source="zoom", at_least=str(head)))["items"]
            assert (session["state"], session["participants"], session["recordings"]) == ("ended", 2, 1)
            (declared,) = await records_of_tracker(running, web)
            assert (declared["position"], declared["origin"]) == (2, "import")
            bundle = await evidence(running, web, session["id"])
        # The same declaration is not recorded again.
        assert await running.stop() == 0
        await running.start()
        async with aiohttp.ClientSession() as web:
            _, repeated = await running.post(web, "declared", call[0])
            assert repeated["duplicate"]
            assert len(await records_of_tracker(running, web)) == 1
        assert await running.stop() == 0

        # What people are called is read from another field now, for old records too.
        changed = shipped.replace(
            'name = "payload.object.participant.user_name"', 'name = "payload.object.participant.email"'
        )
        running.config.write_text(with_declaration(tmp_path, changed), "utf-8")
        await running.start()
        async with aiohttp.ClientSession() as web:
            later = whole_call("declared", now() - HOUR // 2, seed=1)
            assert (await running.post(web, "declared", later[0]))[0] == 200
            assert len(await records_of_tracker(running, web)) == 2
            await running.until(web, f"/v1/sessions/{session['id']}/participants", "alice@example.org")
            after = await evidence(running, web, session["id"])
        assert await running.stop() == 0
    finally:
        await running.stop()
    for command in (("rebuild", "--check"), ("verify", "--proofs")):
        code, out, stderr = await running.run(*command)
        assert code == 0, (command, out, stderr)
    for n, content in enumerate((bundle, after), 1):
        path = tmp_path / f"bundle{n}.zip"
        path.write_bytes(content)
        code, out, stderr = await running.run("verify", str(path), "--json")
        checks = {each["name"]: each["outcome"] for each in json.loads(out)["checks"]}
        assert {checks[name] for name in ("records", "names", "inclusion", "timeline", "vendors")} == {"ok"}, (
            out + stderr
        )
        with zipfile.ZipFile(io.BytesIO(content)) as found:
            lines = [json.loads(line) for line in found.read("records.jsonl").splitlines()]
        assert [line["event"] for line in lines[:n]] == ["declaration"] * n
        assert json.loads(zipfile.ZipFile(io.BytesIO(content)).read("manifest.json"))["declarations"] == n


async def evidence(running: Running, web: aiohttp.ClientSession, session: str) -> bytes:
    async with web.get(f"{running.url}/v1/sessions/{session}/evidence", headers=READ) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_dedupe_of_a_source_with_records_cannot_be_changed_and_mistakes_stop_the_start(tmp_path: Path) -> None:
    shipped = shipped_declaration("zoom")
    running = await Running(tmp_path, config=with_declaration(tmp_path, shipped)).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            assert (await running.post(web, "declared", whole_call("declared", now() - HOUR)[0]))[0] == 200
        assert await running.stop() == 0
    finally:
        await running.stop()
    by_id = shipped.replace('dedupe = "body" ', 'id = "event_ts" #')
    for text, message in (
        (by_id, 'its records are recognised by dedupe = "body", and now it says "id"'),
        (shipped.replace('"session.started"', '"session.begun"'), "line 37: on[0].fact: 'session.begun' is unknown"),
    ):
        running.config.write_text(with_declaration(tmp_path, text), "utf-8")
        code, _, stderr = await running.run("serve")
        assert code in {1, 2}
        assert message in stderr
    # Another name is another source.
    running.config.write_text(with_declaration(tmp_path, by_id).replace('name = "zoom"', 'name = "zoom2"'), "utf-8")
    await running.start()
    assert await running.stop() == 0


async def test_a_challenge_is_answered_and_not_recorded(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            call = whole_call("declared", now())
            asked = json.dumps({"event": "endpoint.url_validation", "payload": {"plainToken": "abc"}}).encode()
            status, answer = await running.post(web, "declared", type(call[0])("", asked, now()))
            assert (status, set(answer)) == (200, {"plainToken", "encryptedToken"})
            forged = json.dumps({"event": "endpoint.url_validation", "payload": {"plainToken": "v0:1:{}"}}).encode()
            status, answer = await running.post(web, "declared", type(call[0])("", forged, now()))
            assert (status, answer["type"]) == (401, "urn:tracker:problem:signature-mismatch")
            assert (await running.get(web, "/v1/records"))["items"] == []
    finally:
        assert await running.stop() == 0
