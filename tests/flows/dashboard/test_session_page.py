"""The page of one session over real HTTP: complete without scripts, escaped, with exports equal to the API's answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from tests.support.server import READ, READ_KEY, Running, now
from tracker.api.auth import AccessKey, mint_token
from tracker.demo.calls import SampleDelivery, whole_call

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = 1_000_000
EVIL = "<script>alert('x')</script>\"&"
FORMULA = "=HYPERLINK(1)"
AGO = 3_600 * S
BEGIN = now() // S * S - AGO
ROOM = {"sid": "RM_evil", "name": EVIL, "creationTime": str(BEGIN // S)}


def livekit(event: str, at: int, **fields: Any) -> SampleDelivery:
    body = {"event": event, "room": ROOM} | fields
    return SampleDelivery(event, json.dumps(body | {"id": f"EV_{event}_{at}", "createdAt": str(at // S)}).encode(), at)


def person(sid: str, name: str, at: int, **more: Any) -> dict[str, Any]:
    return {"sid": sid, "identity": f"id-{sid}", "name": name, "state": "ACTIVE", "joinedAt": str(at // S)} | more


def open_call(begin: int) -> list[SampleDelivery]:
    """An open call of two people, whose names are a script and a formula. The second one's join was lost."""
    first, second = person("PA_1", EVIL, begin + 5 * S), person("PA_2", FORMULA, begin + 60 * S)
    left = second | {"state": "DISCONNECTED", "disconnectReason": "CLIENT_INITIATED"}
    track = {"sid": "TR_1", "type": "VIDEO", "source": "CAMERA", "mimeType": "video/VP8"}
    return [
        livekit("room_started", begin),
        livekit("participant_joined", begin + 5 * S, participant=first),
        livekit("track_published", begin + 7 * S, participant=first, track=track),
        livekit("participant_left", begin + 90 * S, participant=left),
    ]


class Page(HTMLParser):
    """A parsed page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of_class(self, name: str) -> list[str]:
        return [classes for _, known in self.tags if name in (classes := known.get("class") or "").split()]


class Site:
    """A running Tracker with the open call and whole calls of three vendors, and an HTTP client."""

    def __init__(self, running: Running, web: aiohttp.ClientSession) -> None:
        self.running, self.web = running, web

    async def get(self, path: str, headers: dict[str, str] = READ) -> tuple[int, str, Any]:
        async with self.web.get(self.running.url + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def page(self, path: str) -> Page:
        status, text, _ = await self.get(path)
        assert status == 200, text
        return Page(text)

    async def entries(self, session: str) -> list[Any]:
        found = await self.running.get(self.web, f"/v1/sessions/{quote(session, safe='')}/timeline", limit="1000")
        return found["items"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder: Path = tmp_path_factory.mktemp("session_page")
    running = await Running(folder).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            calls = [("livekit", open_call(BEGIN)), ("openvidu", whole_call("openvidu", now() - 2 * AGO, seed=1))]
            calls += [("streamrec", whole_call("streamrec", now() - 2 * AGO, seed=2))]
            calls += [("openvidu_meet", whole_call("openvidu_meet", now() - AGO * n, seed=3)) for n in (2, 3)]
            for vendor, call in calls:
                for sent in call:
                    status, answer = await running.post(web, vendor, sent)
                    assert status == 200, answer
            position = answer["position"]
            await running.get(web, "/v1/sessions", at_least=str(position))
            yield Site(running, web)
    finally:
        await running.stop()


EVIL_PAGE = "/sessions/lk%3ARM_evil"


async def id_of(site: Site, source: str) -> str:
    found = await site.running.get(site.web, "/v1/sessions", source=source)
    return found["items"][0]["id"]


async def test_the_page_lists_people_and_the_completeness(site: Site) -> None:
    found = await site.page(EVIL_PAGE)
    for words in ("open", EVIL, FORMULA, "signed by the sender", "participant joined", "Attendance", "checkpoint"):
        assert words in found.words
    assert "derived" in " ".join(found.of_class("known"))


async def test_names_are_escaped_and_nothing_is_inline(site: Site) -> None:
    status, text, headers = await site.get(EVIL_PAGE)
    assert status == 200
    assert "<script>alert" not in text
    for tag, known in Page(text).tags:
        assert tag != "style"
        assert tag != "script" or (known.get("src") or "").startswith("/static/")
        assert not [name for name in known if name == "style" or name.startswith("on")]
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy


async def test_the_static_picture_has_every_bar_with_the_provenance_of_its_ends(site: Site) -> None:
    bars = (await site.page(EVIL_PAGE)).of_class("bar")
    assert "bar session start-reported end-open" in bars
    assert "bar connection start-reported end-open" in bars
    assert "bar connection start-derived end-reported" in bars
    assert "bar stream start-reported end-open" in bars
    whole = (await site.page(f"/sessions/{quote(await id_of(site, 'rec'), safe='')}")).of_class("bar")
    assert "bar supervisor start-reported end-reported" in whole
    assert any(each.startswith("bar recording ") for each in whole)


async def test_the_list_has_since_delay_and_the_raw_record(site: Site) -> None:
    _, text, _ = await site.get(EVIL_PAGE)
    entries = await site.entries("lk:RM_evil")
    assert text.count('<tr class="event ') == len(entries)
    assert f'<a href="/v1/records/{entries[0]["position"]}">' in text
    assert "+5 s" in text
    assert 'href="/v1/sessions/lk%3ARM_evil/evidence"' in text


async def test_without_the_scope_read_records_the_page_links_no_raw_records(site: Site) -> None:
    key = AccessKey("demo", "HS256", READ_KEY)
    token = mint_token(key, scopes=["read:sessions"], sources=None, expires_s=600, now=now())
    status, text, _ = await site.get(EVIL_PAGE, {"Authorization": f"Bearer {token}"})
    assert status == 200
    assert "/v1/records/" not in text
    assert 'data-records="no"' in text
    assert "/evidence" not in text


async def test_the_timeline_as_json_lines_equals_the_entries_of_the_api(site: Site) -> None:
    session = await id_of(site, "ov")
    status, text, headers = await site.get(f"/sessions/{quote(session, safe='')}/timeline.jsonl")
    assert status == 200
    assert [json.loads(line) for line in text.splitlines()] == await site.entries(session)
    assert "attachment" in headers["Content-Disposition"]


async def test_the_timeline_as_csv_has_the_same_entries(site: Site) -> None:
    session = await id_of(site, "ov")
    _, text, _ = await site.get(f"/sessions/{quote(session, safe='')}/timeline.csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["id"], row["at"], row["kind"], row["provenance"]) for row in rows] == [
        (each["id"], each["at"], each["kind"], each["provenance"]) for each in await site.entries(session)
    ]


async def test_attendance_as_csv_has_a_line_for_each_connection_and_no_formula(site: Site) -> None:
    _, text, headers = await site.get(f"{EVIL_PAGE}/attendance.csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["name"] for row in rows} == {EVIL, f"'{FORMULA}"}
    evil = next(row for row in rows if row["name"] == EVIL)
    assert (evil["left_at"], evil["joined_provenance"]) == ("", "reported")
    assert headers["Content-Type"].startswith("text/csv")


async def test_lanes_as_json_have_a_bar_for_each_row_of_the_api(site: Site) -> None:
    session = quote(await id_of(site, "ov"), safe="")
    _, text, _ = await site.get(f"/sessions/{session}/lanes.json")
    found = json.loads(text)
    phases = [found["words"][each] for each in found["bars"]["phase"]]
    for name, phases_of in (("connections", {"connection", "aborted"}), ("streams", {"stream", "subscription"})):
        rows = (await site.running.get(site.web, f"/v1/sessions/{session}/{name}", limit="1000"))["items"]
        assert sum(each in phases_of for each in phases) == len(rows) > 0
    assert found["steps"][-1][1] == 0


async def test_events_are_paged_and_can_start_after_a_position(site: Site) -> None:
    entries = await site.entries("lk:RM_evil")
    _, text, _ = await site.get(f"{EVIL_PAGE}/events.json")
    found = json.loads(text)
    assert [row[0] for row in found["items"]] == [each["id"] for each in entries]
    assert found["next"] is None
    last = max(each["position"] for each in entries)
    _, text, _ = await site.get(f"{EVIL_PAGE}/events.json?after={last - 1}")
    assert {row[9] for row in json.loads(text)["items"]} == {last}


async def test_the_summary_alone_has_no_picture_and_no_list(site: Site) -> None:
    found = await site.page(f"{EVIL_PAGE}?part=summary")
    assert not found.of_class("bar")
    assert not found.of_class("event")
    assert FORMULA in found.words


@pytest.mark.parametrize(
    "path", ["", "/lanes.json", "/events.json", "/timeline.csv", "/timeline.jsonl", "/attendance.csv", "?part=summary"]
)
async def test_a_narrowed_token_sees_nothing_of_other_sources(site: Site, path: str) -> None:
    key = AccessKey("demo", "HS256", READ_KEY)
    token = mint_token(key, scopes=["read:sessions", "read:records"], sources=["ov"], expires_s=600, now=now())
    status, text, _ = await site.get(EVIL_PAGE + path, {"Authorization": f"Bearer {token}"})
    assert status == 404
    assert "RM_evil" not in text.replace("&#39;lk:RM_evil&#39;", "")
    assert "PA_1" not in text


async def test_without_a_cookie_the_page_redirects_to_sign_in(site: Site) -> None:
    status, _, headers = await site.get(EVIL_PAGE, {})
    assert status == 303
    assert headers["Location"].startswith("/sign-in?next=")


async def test_a_vendors_id_opens_the_session_or_a_list_of_several(site: Site) -> None:
    status, text, _ = await site.get("/sessions/PA_nobody")
    assert status == 404
    assert "no session has the id" in text
    status, text, _ = await site.get("/sessions/RM_evil")
    assert status == 200
    found = await site.running.get(site.web, "/v1/sessions", source="meet")
    rooms = {each["room"]["name"] for each in found["items"]}
    status, text, _ = await site.get(f"/sessions/{quote(rooms.pop(), safe='')}")
    assert status == 300
    for each in found["items"]:
        assert f'href="/sessions/{quote(each["id"], safe="")}"' in text


@pytest.mark.parametrize("query", ["?part=all", "?cursor=zzz", "?who=me"])
async def test_a_bad_parameter_is_named(site: Site, query: str) -> None:
    status, text, _ = await site.get(EVIL_PAGE + query)
    assert status == 400
    assert query[1:].partition("=")[0] in text


async def test_ids_on_the_page_are_unique_and_every_label_has_its_target(site: Site) -> None:
    found = await site.page(EVIL_PAGE)
    ids = [known["id"] for _, known in found.tags if known.get("id")]
    assert len(ids) == len(set(ids))
    for _, known in found.tags:
        for each in (known.get("aria-labelledby") or "").split():
            assert each in ids
