"""The read API over real HTTP: whole calls in the log, projected, and read through every route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer

from tests.support.cluster import Cluster
from tests.support.replicas import opened, settings_of
from tracker.api.auth import SCOPES, Access, AccessKey, mint_token
from tracker.api import app as api_app
from tracker.api.app import add_routes
from tracker.api.route import ApiContext
from tracker.demo.calls import ISSUERS, sign, whole_call
from tracker.domain.deliveries import Delivery, Verified
from tracker.errors import LogUnavailable, ViewsMissing, ViewsOutdated, ViewsUnavailable
from tracker.log.jetstream.log import JetstreamLog
from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

START = 1_790_000_000_000_000
NOW = START + 86_400_000_000
HOUR = 3_600_000_000
SECRET = "a-secret-of-at-least-thirty-two-bytes"
KEY = AccessKey("main", "HS256", "a-read-secret-of-at-least-thirty-two-bytes")
VENDORS = {"ov": "openvidu", "lk": "livekit", "rec": "streamrec", "meet": "openvidu_meet"}
NEVER = {"silent": "plugnmeet"}


def verified(source: str, start: int, seed: int = 0) -> list[Verified]:
    vendor = VENDORS[source]
    keys = {ISSUERS[vendor]: SECRET} if vendor in ISSUERS else {}
    built = registry.build(SourceSettings(name=source, vendor=vendor, secrets=() if keys else (SECRET,), keys=keys))
    found = []
    for sent in whole_call(vendor, start, seed=seed):
        headers, token, _ = sign(vendor, sent.body, SECRET, sent.at)
        found.append(
            built.verify(
                Delivery(
                    source=source,
                    body=sent.body,
                    received_at=sent.at,
                    query=sent.query,
                    headers={name.lower(): value for name, value in headers.items()},
                    token=token.removeprefix("/") or None,
                )  # fmt: skip
            )
        )
    return found


class ApiServer:
    """A log, its views, and the read API on a real HTTP server."""

    def __init__(self, views: SqliteViews, access: Access | None = None, log: JetstreamLog | None = None) -> None:
        self.log = log or MemoryLog()
        self.views = views
        self.projector = Projector(self.log, views)
        self.reasons: list[str] = []
        self.access = access or Access([KEY], now=lambda: NOW)
        self.context = ApiContext(
            log=self.log, views=views, access=self.access, now=lambda: NOW, stuck_after={"lk": 20 * HOUR},
            vendors=VENDORS | NEVER, unready_reasons=self.unready, render_metrics=lambda: (b"up 1\n", "text/plain; version=0.0.4"),
        )  # fmt: skip
        self.client: TestClient[Any, Any]

    async def unready(self) -> list[str]:
        return self.reasons

    async def record(self, deliveries: list[Verified], *, project: bool = True) -> None:
        for each in deliveries:
            await self.log.append(each)
        if project:
            await self.projector.catch_up()

    def token(self, *scopes: str, sources: list[str] | None = None) -> dict[str, str]:
        minted = mint_token(KEY, scopes=scopes or SCOPES, sources=sources, expires_s=600, now=NOW)
        return {"Authorization": f"Bearer {minted}"}

    async def get(self, path: str, *, status: int = 200, **narrowed: Any) -> Any:
        """The JSON of an answer; the server must see `path` exactly as it is written."""
        from yarl import URL

        headers = narrowed.get("headers") or self.token(*narrowed.get("scopes", ()), sources=narrowed.get("sources"))
        async with self.client.get(URL(path, encoded=True), headers=headers, allow_redirects=False) as response:
            body = await response.json(content_type=None)
            assert response.status == status, (path, response.status, body)
            if status >= 400:
                assert response.content_type == "application/problem+json"
                assert {"type", "title", "status", "detail"} <= set(body)
                assert body["type"].startswith("urn:tracker:problem:")
                assert body["status"] == status
            assert response.headers["Cache-Control"] == "no-store"
            return body


async def api_in(path: Path, access: Access | None = None, log: JetstreamLog | None = None) -> ApiServer:
    await SqliteViews.create(path / "views.db")
    return ApiServer(await SqliteViews.open(path / "views.db", writable=True), access, log)


@pytest.fixture(params=["memory", "jetstream"])
def cluster_or_none(request: pytest.FixtureRequest) -> Cluster | None:
    """The cluster, which is started only for the tests that need it."""
    return request.getfixturevalue("cluster") if request.param == "jetstream" else None


@pytest.fixture
async def api(tmp_path: Path, cluster_or_none: Cluster | None) -> AsyncIterator[ApiServer]:
    log = await opened(tmp_path / "log.db", settings_of(cluster_or_none)) if cluster_or_none else None
    async for each in served(await api_in(tmp_path, log=log)):
        yield each


async def served(api: ApiServer) -> AsyncIterator[ApiServer]:
    app = web.Application()
    add_routes(app, api.context)
    async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as api.client:
        yield api
    await api.log.close()
    await api.views.close()


@pytest.fixture
async def full(api: ApiServer) -> ApiServer:
    """A server with two calls of one LiveKit room and one call each of OpenVidu, StreamRec and Meet."""
    for source, start in (
        ("lk", START),
        ("ov", START + HOUR),
        ("lk", START + 2 * HOUR),
        ("rec", START + 3 * HOUR),
        ("meet", START + 4 * HOUR),
    ):
        await api.record(verified(source, start))
    return api


async def test_a_session_has_every_field_of_the_contract(full: ApiServer) -> None:
    sessions = (await full.get("/v1/sessions?source=ov"))["items"]
    assert len(sessions) == 1
    session = sessions[0]
    assert list(session) == [
        "id", "source", "vendor", "room", "vendor_ids", "state", "stuck", "created_at", "started_at", "ended_at",
        "duration_ms", "end", "participants", "peak_participants", "participant_ms", "recordings", "supervisors",
        "completeness", "anomalies", "first_position", "last_position", "last_event_at", "parent_id",
    ]  # fmt: skip
    assert session["vendor"] == "openvidu"
    assert session["state"] == "ended"
    assert session["stuck"] is False
    assert session["duration_ms"] == 150_000
    assert session["started_at"].endswith("Z")
    assert len(session["started_at"]) == len("2026-03-01T09:30:00.000Z")
    assert set(session["end"]) == {"reason", "vendor_reason", "provenance"}
    assert set(session["room"]) == {"id", "name"}
    assert (session["participants"], session["peak_participants"], session["recordings"]) == (2, 2, 1)
    assert await full.get(f"/v1/sessions/{quote(session['id'], safe='')}") == session


async def test_every_part_of_a_session_is_answered(full: ApiServer) -> None:
    session = (await full.get("/v1/sessions?source=lk&limit=1"))["items"][0]
    path = f"/v1/sessions/{quote(session['id'], safe='')}"
    entries = (await full.get(f"{path}/timeline"))["items"]
    assert list(entries[0]) == [
        "id", "session_id", "position", "at", "received_at", "kind", "subject", "actor", "detail", "source", "provenance",
        "clock",
    ]  # fmt: skip
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert {entry["session_id"] for entry in entries} == {session["id"]}
    people = (await full.get(f"{path}/participants"))["items"]
    assert {tuple(person) for person in people} == {
        ("id", "identity", "name", "kind", "connections", "first_joined_at", "last_left_at", "presence_ms")
    }
    assert {person["identity"]: person["presence_ms"] for person in people} == {
        "user-alice": 148_000,
        "user-bob": 100_000,
    }
    joins = (await full.get(f"{path}/connections"))["items"]
    assert {"participant", "joined_at", "left_at", "duration_ms", "leave", "platform", "location", "ip"} <= set(
        joins[0]
    )
    assert joins[0]["leave"]["provenance"] == "reported"
    streams = (await full.get(f"{path}/streams"))["items"]
    assert {stream["media"] for stream in streams} == {"video", "audio"}
    recordings = (await full.get(f"{path}/recordings"))["items"]
    assert len(recordings) == 1
    assert recordings[0]["session_id"] == session["id"]
    assert set(recordings[0]["upload"]) == {"status", "http_status"}
    assert recordings[0]["history"]
    assert all(str(was["at"]).endswith("Z") for was in recordings[0]["history"])
    records = (await full.get(f"{path}/records"))["items"]
    assert [record["position"] for record in records][0] == session["first_position"]
    assert {record["source"] for record in records} == {"lk"}


async def test_the_timeline_is_filtered_by_kind_and_subject(full: ApiServer) -> None:
    path = f"/v1/sessions/{quote((await full.get('/v1/sessions?source=lk'))['items'][0]['id'], safe='')}/timeline"
    joined = (await full.get(f"{path}?kind=participant.joined"))["items"]
    assert [entry["kind"] for entry in joined] == ["participant.joined"] * 2
    both = (await full.get(f"{path}?kind=participant.joined&kind=participant.left"))["items"]
    assert both == (await full.get(f"{path}?kind=participant.joined,participant.left"))["items"]
    assert len(both) == 4
    alice = (await full.get(f"{path}?subject={joined[0]['subject']['id']}"))["items"]
    assert {entry["subject"]["id"] for entry in alice} == {joined[0]["subject"]["id"]}
    assert (await full.get(f"{path}?kind=test"))["items"] == []


async def test_pages_have_no_gap_and_no_repeat(full: ApiServer) -> None:
    session = (await full.get("/v1/sessions?source=ov"))["items"][0]["id"]
    for path in (
        "/v1/sessions", "/v1/rooms", "/v1/participants", "/v1/recordings", "/v1/records",
        *(f"/v1/sessions/{session}/{name}" for name in ("timeline", "participants", "connections", "streams", "records")),
    ):  # fmt: skip
        whole = (await full.get(f"{path}?limit=1000"))["items"]
        assert len(whole) > 1, path
        found, cursor = [], ""
        for _ in range(len(whole) + 1):
            page = await full.get(f"{path}?limit=1{cursor}")
            found += page["items"]
            if page["next"] is None:
                break
            cursor = f"&cursor={quote(page['next'])}"
        assert found == whole, path


async def test_every_filter_finds_its_sessions(full: ApiServer) -> None:
    async def ids(query: str) -> list[str]:
        return [session["id"].partition(":")[0] for session in (await full.get(f"/v1/sessions?{query}"))["items"]]

    assert await ids("") == ["meet", "rec", "lk", "ov", "lk"]
    assert await ids("room=daily-standup") == ["lk", "lk"]
    assert await ids("identity=user-alice") == ["lk", "lk"]
    assert await ids("state=ended&source=rec") == ["rec"]
    assert await ids("state=open") == []
    assert await ids("has=supervisor") == ["rec"]
    assert await ids("has=recording,supervisor") == ["rec"]
    assert await ids("has=recording&has=supervisor") == ["rec"]
    assert await ids("min_duration_ms=155000") == ["meet", "lk", "lk"]
    assert await ids("q=standup") == ["lk", "lk"]
    from_at = (await full.get("/v1/sessions?source=ov"))["items"][0]["started_at"]
    assert await ids(f"from={from_at}") == ["meet", "rec", "lk", "ov"]
    assert await ids(f"to={from_at}") == ["lk"]
    assert await ids(f"from={from_at}&to={from_at.replace('.000Z', '.001Z')}") == ["ov"]
    assert await ids("source=nobody") == []


async def test_a_silent_session_is_stuck_after_the_time_configured_for_its_source(api: ApiServer) -> None:
    await api.record(verified("lk", NOW - 19 * HOUR)[:5])
    await api.record(verified("ov", NOW - 13 * HOUR)[:5])
    await api.record(verified("meet", NOW - HOUR)[:3])
    found = {item["source"]: item["stuck"] for item in (await api.get("/v1/sessions?state=open"))["items"]}
    assert found == {"lk": False, "ov": True, "meet": False}
    stuck = (await api.get("/v1/sessions?state=stuck"))["items"]
    assert [item["source"] for item in stuck] == ["ov"]
    assert stuck[0]["ended_at"] is None
    assert stuck[0]["duration_ms"] is None
    assert stuck[0]["end"] is None


async def test_a_vendors_id_finds_one_session_several_or_none(full: ApiServer) -> None:
    ended = (await full.get("/v1/sessions?source=ov"))["items"][0]
    for any_id in [value for values in ended["vendor_ids"].values() for value in values]:
        assert (await full.get(f"/v1/sessions/{quote(any_id, safe='')}"))["id"] == ended["id"]
    several = await full.get("/v1/sessions/daily-standup", status=300)
    assert [session["source"] for session in several["items"]] == ["lk", "lk"]
    assert several["items"][0]["id"] != several["items"][1]["id"]
    for name in ("timeline", "participants", "connections", "streams", "recordings", "records"):
        assert (await full.get(f"/v1/sessions/daily-standup/{name}", status=300))["items"] == several["items"]
        await full.get(f"/v1/sessions/none-such/{name}", status=404)
        first = next(iter(ended["vendor_ids"].values()))[0]
        assert "items" in await full.get(f"/v1/sessions/{quote(first, safe='')}/{name}")
    missing = await full.get("/v1/sessions/none-such", status=404)
    assert missing["type"] == "urn:tracker:problem:not-found"


async def test_ids_with_slashes_colons_and_odd_characters_are_one_segment_of_the_path(api: ApiServer) -> None:
    deliveries = verified("lk", START)
    changed = [
        Verified(
            source=each.source,
            vendor=each.vendor,
            event=each.event,
            dedupe_key=f"{n}",
            received_at=each.received_at,
            origin=each.origin,
            proof=each.proof,
            body=each.body.replace(b"daily-standup", b"team/daily 100% \xc3\xa9"),
        )  # fmt: skip
        for n, each in enumerate(deliveries)
    ]
    await api.record(changed)
    name = quote("team/daily 100% é", safe="")
    assert (await api.get(f"/v1/sessions/{name}"))["room"]["id"] == "team/daily 100% é"
    assert (await api.get(f"/v1/sessions/{name}/timeline"))["items"]
    assert len((await api.get(f"/v1/sessions?room={name}"))["items"]) == 1
    for strange in ("%FF", "%00", "..%2F..%2Fetc", "%2525", "a%0Ab"):
        await api.get(f"/v1/sessions/{strange}", status=404)
        await api.get(f"/v1/sessions?q={strange}")


async def test_raw_records_are_exact_and_need_the_scope_read_records(full: ApiServer) -> None:
    record = await full.get("/v1/records/1", scopes=["read:records"])
    stored = await full.log.record(1)
    assert stored is not None
    assert list(record) == [
        "position", "source", "vendor", "event", "dedupe_key", "received_at", "origin", "proof", "size_bytes", "sessions",
        "body_url", "body", "erased_by",
    ]  # fmt: skip
    assert record["body"] == stored.body.decode()
    assert record["proof"] == json.loads(stored.proof)
    assert record["size_bytes"] == len(stored.body)
    assert record["sessions"][0].startswith("lk:")
    async with full.client.get(record["body_url"], headers=full.token("read:records")) as response:
        assert await response.read() == stored.body
        assert response.content_type == "application/octet-stream"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert response.headers["X-Log-Position"] == str(await full.views.projected_position())
    for path in ("/v1/records", "/v1/records/1", "/v1/records/1/body", "/v1/sessions/daily-standup/records"):
        refused = await full.get(path, status=403, scopes=["read:sessions"])
        assert refused["type"] == "urn:tracker:problem:scope-missing"
    await full.get("/v1/sessions", status=403, scopes=["read:records"])
    await full.get("/v1/records/1", scopes=["admin"])
    for nowhere in ("0", "99999", "one", "1" * 30, "-1"):
        await full.get(f"/v1/records/{nowhere}", status=404)
        await full.get(f"/v1/records/{nowhere}/body", status=404)


async def test_a_body_that_is_not_utf_8_has_no_text(api: ApiServer) -> None:
    one = verified("lk", START)[0]
    await api.record(
        [
            Verified(
                source="lk",
                vendor="livekit",
                event="",
                dedupe_key="k",
                received_at=one.received_at,
                origin="import",
                proof=b"{}",
                body=b"\xff\xfe\x00",
            )
        ]
    )
    record = await api.get("/v1/records/1")
    assert (record["body"], record["size_bytes"], record["origin"], record["proof"]) == (None, 3, "import", {})


async def test_the_log_is_read_by_position_and_source(full: ApiServer) -> None:
    everything = (await full.get("/v1/records?limit=1000"))["items"]
    assert [record["position"] for record in everything] == list(range(1, await full.log.head() + 1))
    assert [record["position"] for record in (await full.get("/v1/records?after=3&limit=2"))["items"]] == [4, 5]
    only = await full.get("/v1/records?source=rec&limit=1000")
    assert {record["source"] for record in only["items"]} == {"rec"}
    assert only["next"] is None
    assert len(only["items"]) == sum(record["source"] == "rec" for record in everything)
    assert (await full.get("/v1/records?cursor=nonsense", status=400))["parameter"] == "cursor"


async def test_lists_across_sessions_are_newest_first(full: ApiServer) -> None:
    rooms = (await full.get("/v1/rooms"))["items"]
    assert {room["room"]["id"]: room["sessions"] for room in rooms if room["source"] == "lk"} == {"daily-standup": 2}
    people = (await full.get("/v1/participants?identity=user-alice"))["items"]
    assert len(people) == 2
    assert people[0]["first_joined_at"] > people[1]["first_joined_at"]
    assert people[0]["session_id"].startswith("lk:")
    assert len((await full.get("/v1/participants?source=ov"))["items"]) == 2
    recordings = (await full.get("/v1/recordings"))["items"]
    assert [recording["session_id"].partition(":")[0] for recording in recordings] == ["meet", "rec", "lk", "ov", "lk"]
    assert (await full.get(f"/v1/recordings?status={recordings[0]['status']}"))["items"]
    watched = (await full.get("/v1/supervisor-sessions"))["items"]
    assert len(watched) == 1
    assert list(watched[0]) == [
        "id",
        "supervisor",
        "agent",
        "session_id",
        "started_at",
        "ended_at",
        "duration_ms",
        "provenance",
    ]
    assert watched[0]["supervisor"] == {"client_id": "supervisor-7"}
    assert watched[0]["agent"]["client_id"] == "agent-0042"
    assert (await full.get("/v1/supervisor-sessions?client=supervisor-7"))["items"] == watched
    for agent in (watched[0]["agent"]["session_id"], watched[0]["session_id"]):
        found = await full.get(f"/v1/supervisor-sessions?session={quote(agent, safe='')}")
        assert found["items"] == watched
    await full.get("/v1/supervisor-sessions?session=none", status=404)
    found = await full.get(
        f"/v1/sessions/{quote(watched[0]['session_id'], safe='')}/timeline?kind=participant.join", status=400
    )
    assert found["parameter"] == "kind"
    assert (await full.get("/nothing/here", status=404))["title"] == "No such route"
    assert await full.get(f"/v1/supervisor-sessions/{quote(watched[0]['id'], safe='')}") == watched[0]
    await full.get("/v1/supervisor-sessions/none", status=404)


async def test_statistics_equal_the_sessions_in_the_views(full: ApiServer) -> None:
    stats = await full.get("/v1/stats")
    assert (stats["open"], stats["sessions"]) == (0, 5)
    assert sum(day["sessions"] for day in stats["days"]) == 5
    assert stats["peak"]["sessions"] == 1
    assert stats["peak"]["at"].endswith("Z")
    assert {row["source"]: row["sessions"] for row in stats["sources"]} == {
        "ov": 1,
        "lk": 2,
        "rec": 1,
        "meet": 1,
        "silent": 0,
    }
    assert (await full.get("/v1/stats?from=2030-01-01"))["sessions"] == 0
    assert [row["source"] for row in (await full.get("/v1/stats", sources=["ov"]))["sources"]] == ["ov"]


async def test_a_narrowed_token_sees_nothing_of_other_sources(full: ApiServer) -> None:
    sources = ["ov"]
    for path in ("/v1/sessions", "/v1/participants", "/v1/recordings", "/v1/rooms", "/v1/records"):
        found = (await full.get(path, sources=sources))["items"]
        assert found
        assert {item.get("source") or item["session_id"].partition(":")[0] for item in found} == {"ov"}, path
        assert (await full.get(f"{path}?source=lk", sources=sources))["items"] == []
    assert (await full.get("/v1/supervisor-sessions", sources=sources))["items"] == []
    watched = (await full.get("/v1/supervisor-sessions"))["items"][0]["id"]
    await full.get(f"/v1/supervisor-sessions/{quote(watched, safe='')}", sources=sources, status=404)
    hidden = (await full.get("/v1/sessions?source=lk"))["items"][0]
    for any_id in (hidden["id"], "daily-standup"):
        for name in ("", "/timeline", "/participants", "/connections", "/streams", "/recordings", "/records"):
            await full.get(f"/v1/sessions/{any_id}{name}", sources=sources, status=404)
    for name in ("", "/body"):
        await full.get(f"/v1/records/{hidden['first_position']}{name}", sources=sources, status=404)
    assert (await full.get("/v1/sessions", sources=[]))["items"] == []


async def test_at_least_waits_until_a_position_is_projected(api: ApiServer) -> None:
    await api.record(verified("lk", START), project=False)
    head = await api.log.head()

    async def later() -> None:
        await asyncio.sleep(0.1)
        await api.projector.catch_up()

    task = asyncio.create_task(later())
    async with api.client.get(f"/v1/sessions?at_least={head}", headers=api.token()) as response:
        assert response.status == 200
        assert response.headers["X-Log-Position"] == str(head)
        assert len((await response.json())["items"]) == 1
    await task


async def test_at_least_ends_with_an_error_after_the_timeout(full: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_app, "AT_LEAST_TIMEOUT_S", 0.1)
    head = await full.views.projected_position()
    for path in ("/v1/sessions", "/v1/stats", "/v1/records/1/body", "/v1/sessions/none"):
        async with full.client.get(f"{path}?at_least={head + 1}", headers=full.token()) as response:
            assert response.status == 504
            assert response.headers["X-Log-Position"] == str(head)
            assert (await response.json())["type"] == "urn:tracker:problem:views-behind"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("colour=red", "colour"), ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=ten", "limit"), ("limit=", "limit"),
        ("limit=1&limit=2", "limit"), ("state=closed", "state"), ("has=fun", "has"), ("from=yesterday", "from"),
        ("to=2026-13-01", "to"), ("from=2026-01-01T00:00:00", "from"), ("min_duration_ms=-1", "min_duration_ms"),
        ("cursor=!!", "cursor"), ("q=", "q"), ("at_least=-1", "at_least"), ("at_least=x", "at_least"),
        ("has=recording,", "has"), ("source=a&source=b", "source"), ("limit=%D9%A1", "limit"),
    ],
)  # fmt: skip
async def test_the_error_names_an_invalid_parameter(api: ApiServer, query: str, parameter: str) -> None:
    problem = await api.get(f"/v1/sessions?{query}", status=400)
    assert problem["type"] == "urn:tracker:problem:parameter-invalid"
    assert problem["parameter"] == parameter
    assert parameter in problem["detail"]


async def test_every_route_refuses_unknown_parameters(full: ApiServer) -> None:
    for route in api_app.ROUTES:
        path = route.path.replace("{id}", "x").replace("{position}", "1")
        assert (await full.get(f"{path}?colour=red", status=400))["parameter"] == "colour"
        async with full.client.get(path) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert "X-Log-Position" not in response.headers


async def test_only_get_and_head_are_allowed(api: ApiServer) -> None:
    for path in ("/v1/sessions", "/v1/records/1", "/healthz", "/openapi.json"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            async with api.client.request(method, path, headers=api.token()) as response:
                assert response.status == 405
                assert response.headers["Allow"] == "GET, HEAD"
                assert response.content_type == "application/problem+json"
    async with api.client.head("/v1/sessions", headers=api.token()) as response:
        assert response.status == 200
        assert response.headers["X-Log-Position"] == "0"
        assert await response.read() == b""
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1/sessions/", "/v1/sessions/a/b/c"):
        assert (await api.get(path, status=404))["type"] == "urn:tracker:problem:route-unknown"


async def test_public_routes_need_no_token(api: ApiServer) -> None:
    async with api.client.get("/healthz") as response:
        assert (response.status, await response.json()) == (200, {"alive": True})
    async with api.client.get("/readyz") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "reasons": []})
    api.reasons.append("the disk is full")
    async with api.client.get("/readyz") as response:
        assert (response.status, await response.json()) == (503, {"ready": False, "reasons": ["the disk is full"]})
    async with api.client.get("/metrics") as response:
        assert await response.text() == "up 1\n"
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4"
    async with api.client.get("/openapi.json") as response:
        assert (await response.json())["openapi"] == "3.1.0"


async def test_the_docs_load_nothing_from_another_host(api: ApiServer) -> None:
    async with api.client.get("/docs") as response:
        page = await response.text()
        policy = response.headers["Content-Security-Policy"]
        assert response.content_type == "text/html"
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "//" not in page
    import re

    for path in re.findall(r'(?:src|href|spec-url)="([^"]+)"', page):
        if not path.startswith("data:"):
            async with api.client.get(path) as response:
                assert response.status == 200, path


async def test_a_one_time_link_works_once(tmp_path: Path) -> None:
    access = Access([], now=lambda: NOW)
    async for api in served(await api_in(tmp_path, access)):
        await api.record(verified("lk", START))
        link = access.one_time_link()
        assert link is not None
        async with api.client.get("/v1/sessions") as response:
            assert response.status == 401
        async with api.client.head(link) as response:
            assert response.status == 200
        async with api.client.get(link, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")
            cookie = response.headers["Set-Cookie"]
            assert cookie.startswith("tracker_session=")
            assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        async with api.client.get("/v1/records/1") as response:
            assert response.status == 200
        api.client.session.cookie_jar.clear()
        async with api.client.get(link, allow_redirects=False) as response:
            assert response.status == 401
            assert "Set-Cookie" not in response.headers
        async with api.client.get("/v1/sessions") as response:
            assert response.status == 401
        async with api.client.get("/v1/sessions", cookies={"tracker_session": "guessed"}) as response:
            assert response.status == 401


@pytest.mark.parametrize("error", [ViewsMissing, ViewsOutdated, ViewsUnavailable, LogUnavailable])
async def test_unavailable_stores_are_answered_with_503(tmp_path: Path, error: type[Exception]) -> None:
    api = await api_in(tmp_path)

    class Broken(SqliteViews):
        async def projected_position(self) -> int:
            raise error("/secret/path/views.db is gone")

    whole, broken = api.views, Broken(tmp_path / "views.db", writable=False)
    api.context = ApiContext(
        **{name: getattr(api.context, name) for name in ApiContext.__struct_fields__} | {"views": broken}
    )
    async for each in served(api):
        async with each.client.get("/v1/sessions", headers=each.token()) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert "/secret" not in await response.text()
    await broken.close()
    await whole.close()


async def test_an_internal_error_is_answered_with_500_and_no_details(tmp_path: Path) -> None:
    api = await api_in(tmp_path)

    def broken() -> int:
        raise RuntimeError("Alice said hello")

    api.context = ApiContext(
        **{name: getattr(api.context, name) for name in ApiContext.__struct_fields__} | {"now": broken}
    )
    await api.record(verified("lk", START)[:3])
    async for each in served(api):
        async with each.client.get("/v1/sessions", headers=each.token()) as response:
            text = await response.text()
            assert response.status == 500
            assert response.content_type == "application/problem+json"
            assert "Alice" not in text
            assert "RuntimeError" not in text
