"""Webhooks over real HTTP: every documented answer, and the exact bytes in the log."""

from __future__ import annotations

import asyncio
import gc
import gzip
import hashlib
import hmac
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from tracker.domain.deliveries import ChallengeReceived, Delivery, Verified
from tracker.errors import KeyUnknown, LogUnavailable, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.ingest.webhooks import Ingest
from tracker.log.sqlite.log import SqliteLog
from tracker.server.metrics import Metrics
from tracker.ingest.verify_batch import VerificationBatcher

NOW = 1_700_000_000_000_000
BOUND = 10_000
SECRET = b"a secret of the tests"
QUESTION, ANSWER = b'{"event":"validation","plainToken":"q1"}', b'{"encryptedToken":"a1"}'


class TestedSource:
    """A vendor for tests: `x-signature` is the HMAC of the body, `x-key` names the key, `x-time` the time (s)."""

    __test__ = False
    name = "lk"
    vendor = "tested"
    rejected_status = 401

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def verify(self, delivery: Delivery) -> Verified:
        self.deliveries.append(delivery)
        if delivery.query.get("bug"):
            raise KeyError(delivery.body)
        proof = delivery.headers.get("x-signature")
        if proof is None:
            raise SignatureMissing("header x-signature is missing: sign the webhook")
        if delivery.headers.get("x-key", "k") != "k":
            raise KeyUnknown
        if "x-time" in delivery.headers:
            raise SignatureStale("x-time is 600 s away from our clock: set the clocks with NTP")
        if not hmac.compare_digest(proof, hmac.new(SECRET, delivery.body, "sha256").hexdigest()):
            raise SignatureMismatch("x-signature does not match the body")
        if delivery.body == QUESTION:
            raise ChallengeReceived(ANSWER)
        return self.verify_trusted(delivery.body, received_at=delivery.received_at, proof={})

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        return Verified(
            source=self.name, vendor=self.vendor, event="", dedupe_key=hashlib.sha256(body).hexdigest(),
            received_at=received_at, origin="webhook", proof=b"{}", body=body,
        )  # fmt: skip


class HookServer:
    """A running HTTP server with one source, its log and its metrics."""

    def __init__(self, log: SqliteLog, source: TestedSource) -> None:
        self.log = log
        self.source = source
        self.metrics = Metrics(lambda: NOW + 5_000_000)
        self.ingest = Ingest({"lk": source}, log, max_body_bytes=BOUND, now=lambda: NOW, observer=self.metrics)
        app = web.Application()
        self.ingest.add_routes(app)
        self.server = TestServer(app)
        self.client = TestClient(self.server)

    async def send(self, body: bytes, path: str = "/hooks/lk", **headers: str) -> ClientResponse:
        signature = hmac.new(SECRET, body, "sha256").hexdigest()
        sent = {"x-signature": signature} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, data=body, headers=sent, allow_redirects=False)

    async def bodies(self) -> list[bytes]:
        return [record.body async for chunk in self.log.read(0) for record in chunk]


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
async def hooks(log_path: Path) -> AsyncIterator[HookServer]:
    await SqliteLog.create(log_path)
    log = await SqliteLog.open(log_path, queue_bound=2, busy_timeout=0.3)
    hooks = HookServer(log, TestedSource())
    await hooks.server.start_server(auto_decompress=False)  # as `tracker serve` does
    await hooks.client.start_server()
    yield hooks
    await hooks.client.close()
    await log.close()


async def problem(answer: ClientResponse, status: int) -> dict[str, Any]:
    """The problem document of an answer, which must have this status."""
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    document = await answer.json()
    assert set(document) == {"type", "title", "status", "detail"}
    assert document["status"] == status
    assert document["detail"]
    return document


async def test_a_delivery_is_recorded_byte_for_byte(hooks: HookServer) -> None:
    body = bytes(range(256)) + b'{"a":1}\r\n'
    answer = await hooks.send(body)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert await answer.json() == {"position": 1, "duplicate": False}
    assert await hooks.bodies() == [body]
    assert hooks.ingest.last_seen == {"lk": NOW}
    text = hooks.metrics.render()[0].decode()
    assert 'tracker_deliveries_total{outcome="recorded",source="lk"} 1.0' in text
    assert 'tracker_source_last_delivery_seconds{source="lk"} 5.0' in text


async def test_a_repeat_is_answered_with_the_first_position(hooks: HookServer) -> None:
    for body in (b"one", b"two"):
        await hooks.send(body)
    assert await (await hooks.send(b"one")).json() == {"position": 1, "duplicate": True}
    assert await hooks.bodies() == [b"one", b"two"]


@pytest.mark.parametrize("path", ["/hooks/lk", "/hooks/lk/", "/hooks/lk/tok", "/hooks/lk/tok/"])
async def test_no_hook_path_redirects(hooks: HookServer, path: str) -> None:
    answer = await hooks.send(b"body", path + "?sid=1&rid=2&sid=3")
    assert answer.status == 200
    delivery = hooks.source.deliveries[0]
    assert delivery.token == ("tok" if "tok" in path else None)
    assert delivery.query == {"sid": "1", "rid": "2"}
    assert all(name == name.lower() for name in delivery.headers)
    assert delivery.received_at == NOW


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff\xfe{"])
async def test_an_unparsable_body_is_recorded(hooks: HookServer, body: bytes) -> None:
    assert (await hooks.send(body)).status == 200
    assert await hooks.bodies() == [body]


@pytest.mark.parametrize(
    ("headers", "kind", "words"),
    [
        ({"x_signature": "bad"}, "signature-mismatch", "does not match"),
        ({"x_time": "1"}, "signature-stale", "600 s"),
        ({"x_key": "other"}, "key-unknown", "config.toml"),
    ],
)
async def test_a_delivery_that_is_not_authentic_is_refused_with_the_reason(
    hooks: HookServer, headers: dict[str, str], kind: str, words: str
) -> None:
    document = await problem(await hooks.send(b"body", **headers), 401)
    assert document["type"] == f"urn:tracker:problem:{kind}"
    assert words in document["detail"]
    assert await hooks.bodies() == []
    assert hooks.ingest.last_seen == {}
    assert hooks.ingest.last_refused["lk"] == (NOW, kind.replace("-", "_"))
    assert f'outcome="{kind.replace("-", "_")}",source="lk"}} 1.0' in hooks.metrics.render()[0].decode()


async def test_a_missing_proof_is_named(hooks: HookServer) -> None:
    answer = await hooks.client.post("/hooks/lk", data=b"body")
    assert "x-signature is missing" in (await problem(answer, 401))["detail"]


async def test_refusals_are_logged_without_bodies_tokens_or_proofs(hooks: HookServer) -> None:
    with capture_logs() as logs:
        await hooks.send(b"the body", "/hooks/lk/the-token", x_signature="the-proof")
    assert [entry["reason"] for entry in logs] == ["signature_mismatch"]
    assert not any(word in str(logs) for word in ("the body", "the-token", "the-proof"))


@pytest.mark.parametrize(
    "path", ["/hooks/nobody", "/hooks/nobody/", "/hooks/nobody/tok", "/hooks", "/hooks/", "/hooks/lk/a/b"]
)
async def test_an_unknown_source_is_not_found(hooks: HookServer, path: str) -> None:
    document = await problem(await hooks.send(b"body", path), 404)
    assert "config.toml" in document["detail"]
    assert "nobody" not in hooks.metrics.render()[0].decode()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/hooks/lk", "/hooks/lk/tok/"])
async def test_only_post_is_allowed(hooks: HookServer, method: str, path: str) -> None:
    answer = await hooks.client.request(method, path, allow_redirects=False)
    await problem(answer, 405)
    assert answer.headers["Allow"] == "POST"


async def test_a_body_of_exactly_the_maximum_size_is_recorded(hooks: HookServer) -> None:
    assert (await hooks.send(b"x" * BOUND)).status == 200
    document = await problem(await hooks.send(b"x" * (BOUND + 1)), 413)
    assert "max_body_bytes" in document["detail"]


async def test_a_chunked_body_over_the_maximum_is_refused_while_it_arrives(hooks: HookServer) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    answer = await hooks.client.post("/hooks/lk", data=endless(), headers={"x-signature": "any"})
    await problem(answer, 413)
    assert hooks.source.deliveries == []


async def test_a_compressed_body_is_bounded_by_its_decompressed_size(hooks: HookServer) -> None:
    bomb = gzip.compress(b"\0" * 5_000_000)
    assert len(bomb) < BOUND
    answer = await hooks.client.post("/hooks/lk", data=bomb, headers={"Content-Encoding": "gzip"})
    await problem(answer, 413)
    small = b"hello"
    signature = hmac.new(SECRET, small, "sha256").hexdigest()
    headers = {"Content-Encoding": "gzip", "x-signature": signature}
    assert (await hooks.client.post("/hooks/lk", data=gzip.compress(small), headers=headers)).status == 200
    assert await hooks.bodies() == [small]


async def test_a_body_that_cannot_be_decompressed_is_a_bad_request(hooks: HookServer) -> None:
    answer = await hooks.client.post("/hooks/lk", data=b"no gzip at all", headers={"Content-Encoding": "gzip"})
    assert answer.status == 400
    assert await hooks.bodies() == []


async def test_an_incomplete_body_is_not_recorded(hooks: HookServer) -> None:
    reader, writer = await asyncio.open_connection(hooks.server.host, hooks.server.port)
    writer.write(b"POST /hooks/lk HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\nx-signature: a\r\n\r\nhalf")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await asyncio.sleep(0.05)
    assert reader.at_eof() or not await reader.read()
    assert hooks.source.deliveries == []
    assert await hooks.bodies() == []
    assert (await hooks.send(b"whole")).status == 200


async def test_if_the_log_is_unavailable_the_sender_is_asked_to_try_again(hooks: HookServer, log_path: Path) -> None:
    with closing(sqlite3.connect(log_path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        first = asyncio.ensure_future(hooks.send(b"0"))
        await asyncio.sleep(0.1)  # its transaction now waits for the lock, and the others wait in the queue
        answers = await asyncio.gather(*[hooks.send(f"{n}".encode()) for n in range(1, 5)])
        kinds = sorted([(await problem(answer, 503))["type"].rsplit(":", 1)[1] for answer in (*answers, await first)])
        assert kinds == ["log-busy"] * 2 + ["log-unavailable"] * 3
        assert all(answer.headers["Retry-After"] == "1" for answer in answers)
        other.execute("ROLLBACK")
    assert await (await hooks.send(b"0")).json() == {"position": 1, "duplicate": False}


async def test_a_503_reveals_no_file_names_to_the_sender(hooks: HookServer, log_path: Path) -> None:
    await hooks.log.close()
    document = await problem(await hooks.send(b"body"), 503)
    assert str(log_path.parent) not in str(document)


async def test_a_bug_is_answered_with_500_and_leaks_nothing(hooks: HookServer) -> None:
    with capture_logs() as logs:
        await problem(await hooks.send(b"private", "/hooks/lk?bug=1"), 500)
    assert logs[0]["error"] == "KeyError"
    assert "private" not in str(logs)
    assert await hooks.bodies() == []


async def test_many_concurrent_deliveries_are_each_recorded_once(log_path: Path) -> None:
    await SqliteLog.create(log_path)
    log = await SqliteLog.open(log_path)
    hooks = HookServer(log, TestedSource())
    await hooks.server.start_server(auto_decompress=False)  # as `tracker serve` does
    await hooks.client.start_server()
    answers = await asyncio.gather(*[hooks.send(f"{n % 50}".encode()) for n in range(100)])
    documents = [await answer.json() for answer in answers]
    assert sorted(document["position"] for document in documents if not document["duplicate"]) == list(range(1, 51))
    await hooks.client.close()
    await log.close()


async def test_of_deliveries_verified_together_only_the_forged_are_refused(hooks: HookServer) -> None:
    sent = [hooks.send(f"{n}".encode(), **({"x_signature": "0" * 64} if n % 3 == 0 else {})) for n in range(2)]
    answers = await asyncio.gather(*sent)
    assert [answer.status for answer in answers] == [401, 200]
    assert await hooks.bodies() == [b"1"]


async def test_answered_deliveries_leave_no_reference_cycles(log_path: Path) -> None:
    await SqliteLog.create(log_path)
    log = await SqliteLog.open(log_path, busy_timeout=0.01)
    source, batcher = TestedSource(), VerificationBatcher(log)

    async def send(body: bytes, proof: str) -> str:
        sent = Delivery(source="lk", body=body, received_at=NOW, headers={"x-signature": proof})
        try:
            await batcher.submit(source, sent)
        except (SignatureMismatch, LogUnavailable) as error:
            return type(error).__name__
        return "recorded"

    signature = hmac.new(SECRET, b"a", "sha256").hexdigest()
    with closing(sqlite3.connect(log_path, isolation_level=None)) as other:
        gc.collect()
        gc.disable()
        try:
            assert await send(b"a", signature) == "recorded"
            assert await send(b"a", "0" * 64) == "SignatureMismatch"
            other.execute("BEGIN EXCLUSIVE")
            assert await send(b"a", signature) == "LogUnavailable"
            assert (
                gc.collect() == 0
            )  # a body in a cycle would stay until the next collection, which is rare (tracker/projector/gc_tuning.py)
        finally:
            gc.enable()
            other.execute("ROLLBACK")
            await log.close()


def _request(body: bytes, *, version: str = "1.1", more: str = "") -> bytes:
    signature = hmac.new(SECRET, body, "sha256").hexdigest()
    head = f"POST /hooks/lk HTTP/{version}\r\nHost: h\r\nx-signature: {signature}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _answers(hooks: HookServer, sent: bytes) -> bytes:
    """All bytes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hooks.server.make_url("/").port)
    with closing(writer):
        writer.write(sent)
        async with asyncio.timeout(10):
            return await reader.read()


async def test_answers_on_one_connection_are_complete_and_the_last_one_closes_it(hooks: HookServer) -> None:
    received = await _answers(hooks, _request(b"a") + _request(b"a") + _request(b"b", more="Connection: close\r\n"))
    first, second, last = (b"HTTP/1.1 200 OK\r\n" + answer for answer in received.split(b"HTTP/1.1 200 OK\r\n")[1:])
    for answer, text in (
        (first, b'{"position":1,"duplicate":false}'), (second, b'{"position":1,"duplicate":true}'),
        (last, b'{"position":2,"duplicate":false}'),
    ):  # fmt: skip
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body == text
        assert f"Content-Length: {len(text)}".encode() in head.split(b"\r\n")
        assert b"Content-Type: application/json" in head.split(b"\r\n")
        assert b"Date: Tue, 14 Nov 2023 22:13:20 GMT" in head.split(b"\r\n")
        assert (b"Connection: close" in head.split(b"\r\n")) == (answer is last)


@pytest.mark.parametrize("header", ["", "Connection: keep-alive\r\n"])
async def test_an_http_1_0_sender_gets_an_http_1_0_answer_and_keep_alive_if_requested(
    hooks: HookServer, header: str
) -> None:
    more = _request(b"b", version="1.0") if header else b""
    received = await _answers(hooks, _request(b"a", version="1.0", more=header) + more)
    answers = [b"HTTP/1.0 200 OK\r\n" + answer for answer in received.split(b"HTTP/1.0 200 OK\r\n")[1:]]
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [
        b'{"position":1,"duplicate":false}', b'{"position":2,"duplicate":false}',
    ][: 2 if header else 1]  # fmt: skip
    assert (b"\r\nConnection: keep-alive\r\n" in answers[0]) == bool(header)


async def test_an_authentic_challenge_is_answered_and_not_recorded(hooks: HookServer) -> None:
    answer = await hooks.send(QUESTION)
    assert (answer.status, answer.content_type, await answer.read()) == (200, "application/json", ANSWER)
    assert await hooks.bodies() == []
    assert hooks.metrics.outcomes == {("lk", "challenge"): 1}


async def test_a_challenge_without_a_proof_is_refused_like_any_delivery(hooks: HookServer) -> None:
    answer = await hooks.client.post("/hooks/lk", data=QUESTION)
    assert (await problem(answer, 401))["type"].endswith("signature-missing")


@pytest.mark.parametrize("sent", [{}, {"x-signature": "00"}, {"x-key": "other"}, {"x-time": "1"}])
async def test_a_sender_that_takes_401_for_delivered_gets_403(hooks: HookServer, sent: dict[str, str]) -> None:
    hooks.source.rejected_status = 403
    signature = {} if not sent else {"x-signature": hmac.new(SECRET, b"{}", "sha256").hexdigest()}
    answer = await hooks.client.post("/hooks/lk", data=b"{}", headers=signature | sent)
    await problem(answer, 403)
    assert await hooks.bodies() == []


async def test_the_status_of_a_source_does_not_change_other_refusals(hooks: HookServer) -> None:
    hooks.source.rejected_status = 403
    await problem(await hooks.send(b"x" * (BOUND + 1)), 413)
    await problem(await hooks.client.post("/hooks/other", data=b"{}"), 404)


@pytest.mark.parametrize("end", ["room/created", "room/destroyed", "occupant/joined", "occupant/left"])
async def test_the_addresses_that_jitsi_appends_lead_to_the_source(hooks: HookServer, end: str) -> None:
    answer = await hooks.send(b"{}", f"/hooks/lk/events/{end}")
    assert await answer.json() == {"position": 1, "duplicate": False}
    assert hooks.source.deliveries[0].token is None


@pytest.mark.parametrize("end", ["person/joined", "room/opened", "room/created/now"])
async def test_other_addresses_below_events_do_not_exist(hooks: HookServer, end: str) -> None:
    await problem(await hooks.send(b"{}", f"/hooks/lk/events/{end}"), 404)
