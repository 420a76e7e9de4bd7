"""An attacker with a node's password publishes into the stream: every node handles it alike, and keeps running."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import nats
import pytest
import zstandard

from tests.support.cluster import Cluster, node
from tests.support.server import now
from tracker.demo.calls import SampleDelivery
from tracker.log.frames import UNCOMPRESSED, MAGIC, VERSION, ZSTD, Frame, decode

HEAD = MAGIC + bytes([VERSION])


def row(n: int, **changed: Any) -> list[Any]:
    """A record in the form of a frame, with these columns changed."""
    columns: dict[str, Any] = {
        "source": "lk", "vendor": "livekit", "event": "room_started", "key": f"stranger-{n}", "at": now(),
        "origin": "webhook", "proof": b"{}", "body": b"{}", "commitment": None,
    }  # fmt: skip
    return list((columns | changed).values())


def frame(*rows: list[Any], erases: tuple[int, ...] = ()) -> bytes:
    return HEAD + UNCOMPRESSED + msgspec.msgpack.encode([secrets.token_bytes(16), "stranger", rows, erases])


def started(n: int) -> SampleDelivery:
    room = {"sid": f"RM_{n}", "name": "r"}
    body = {"event": "room_started", "id": f"EV_{n}", "createdAt": "1700000000", "room": room}
    return SampleDelivery(event="room_started", body=json.dumps(body).encode(), at=now())


REFUSED = [
    b"garbage", HEAD, HEAD + b"q", HEAD + ZSTD + b"no zstd", HEAD + ZSTD + zstandard.compress(bytes(2**27)),
    HEAD + UNCOMPRESSED + b"\x91" * 100_000, frame(), frame(row(1, source="l\0k")), frame(row(1, source="../etc")),
    frame(row(1), row(2, at=-5)), frame(row(1, at=2**62)), frame(row(1), erases=(1,)), frame(row(1, origin="guess")),
    frame(*[row(n) for n in range(10_001)]), frame(row(1, source="tracker", vendor="tracker"), erases=(1,) * 10_001),
]  # fmt: skip
ACCEPTED = [
    frame(row(2, vendor="vendor-of-tomorrow")), frame(row(3, source="unknown-source")),
    frame(row(4, body=b"\xff\x00garbage", proof=b"\xfe no json", event="\0<b>\u202e")),
    frame(row(5, body=b'{"room":' + b"[" * 100_000, key="k" * 100_000)),
    frame(row(6, body=bytes(5 * 2**20))), frame(*[row(n) for n in range(10, 511)]),
    frame(row(7, source="tracker", vendor="tracker", event="erasure", body=b"no json"), erases=(1, -4, 2**62)),
    frame(row(8, source="tracker", vendor="tracker", event="erasure", body=b'{"event":"erasure"}')),
    frame(row(9, source="tracker", vendor="livekit", event="erased", body=b"{}"), erases=(2,)),
]  # fmt: skip
"""Frames that a node could have sent, so nodes apply them. One of them has 501 records."""


async def publish(cluster: Cluster, subject: str, *messages: bytes) -> None:
    client = await nats.connect(cluster.urls[0])  # pyright: ignore[reportUnknownMemberType]
    for each in messages:
        await client.jetstream().publish(subject, each)  # pyright: ignore[reportUnknownMemberType]
    await client.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_every_node_handles_a_strangers_messages_in_the_stream_alike(tmp_path: Path, cluster: Cluster) -> None:
    stream = f"strange-{secrets.token_hex(4)}"
    both = [await node(tmp_path, name, cluster, stream=stream).start(init=True) for name in ("a", "b")]
    try:
        async with aiohttp.ClientSession() as web:
            assert (await both[0].post(web, "livekit", started(1)))[0] == 200
            assert (await both[0].post(web, "livekit", started(2)))[0] == 200
            await publish(cluster, f"{stream}.frames", *REFUSED, *ACCEPTED)
            nested = b'{"type":"signed","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
            await publish(cluster, f"{stream}.checkpoints", b"garbage", nested)
            position = 2 + 501 + len(ACCEPTED) - 1 + 1
            assert (await both[1].post(web, "livekit", started(3))) == (200, {"position": position, "duplicate": False})
            for each in both:
                code, found = await each.text(web, f"/v1/sessions?at_least={position}")
                assert (code, '"RM_3"' in found) == (200, True), each.printed.read_text()[-3000:]
                assert f"tracker_stream_refused {len(REFUSED) + 2}.0" in (await each.text(web, "/metrics"))[1]
                for path in (
                    *(f"/v1/records/{n}" for n in range(1, 12)),
                    "/v1/records?limit=500",
                    "/",
                    "/log",
                    "/sources",
                ):
                    assert (await each.text(web, path))[0] in {200, 410}, path
                await each.until(web, "/readyz", '"ready":true')
            # The same after a restart and after a rebuild of the views.
            for each in both:
                await each.stop()
                await each.start()
                assert (await each.run("rebuild"))[0] == 0
                assert (await each.run("rebuild", "--check"))[0] == 0
                await each.until(web, "/readyz", '"ready":true')
            assert (await both[0].post(web, "livekit", started(4)))[1]["position"] == position + 1
            await both[1].until(web, f"/v1/sessions?at_least={position + 1}", "RM_4")
            roots = [(await each.run("verify"))[1].splitlines()[0] for each in both]
            assert roots[0] == roots[1]
    finally:
        await asyncio.gather(*[each.stop() for each in both])


SEALING = f"""
[sealing]
keys = [{{ id = "main", secret = "{"ab" * 32}" }}]
path = "keys.db"
"""


@pytest.mark.asyncio(loop_scope="session")
async def test_a_strangers_encrypted_records_and_an_empty_erasure_stop_no_node(
    tmp_path: Path, cluster: Cluster
) -> None:
    stream = f"sealed-{secrets.token_hex(4)}"
    both = [await node(tmp_path, name, cluster, stream=stream, more=SEALING).start(init=True) for name in ("a", "b")]
    try:
        async with aiohttp.ClientSession() as web:
            assert (await both[0].post(web, "livekit", started(1)))[0] == 200
            held = await first_frame(cluster, stream)
            ids = [secrets.token_bytes(16) for _ in range(3)]
            junk = msgspec.msgpack.encode(["main", [secrets.token_bytes(92)]])
            for key, entry in ((ids[1], b"garbage"), (ids[2], junk)):
                await publish(cluster, f"$KV.{stream}-keys.{key.hex()}", entry)
            sealed = {"body": secrets.token_bytes(90), "commitment": secrets.token_bytes(32)}
            strange = [
                HEAD + UNCOMPRESSED + msgspec.msgpack.encode([key, "stranger", [row(n, **sealed)], []])
                for n, key in enumerate([*ids, held])
            ]
            erasing = row(9, source="tracker", vendor="tracker", event="erasure", body=b"no json")
            await publish(cluster, f"{stream}.frames", *strange, frame(erasing, erases=(1,)))
            position = 1 + len(strange) + 1 + 1
            async with asyncio.timeout(120):
                while (await both[1].post(web, "livekit", started(3)))[0] != 200:
                    await asyncio.sleep(0.5)
            for _ in range(2):
                for each in both:
                    # Each node stops waiting by its own clock: the other one may still wait for the keys.
                    await each.until(web, "/readyz", '"ready":true')
                    code, found = await each.text(web, f"/v1/sessions?at_least={position}")
                    assert (code, '"RM_3"' in found) == (200, True), found + each.printed.read_text()[-3000:]
                    for n in range(1, position + 1):
                        assert (await each.text(web, f"/v1/records/{n}"))[0] in {200, 410}
                    await each.stop()
                    await each.start()
                    assert (await each.run("rebuild"))[0] == 0
    finally:
        await asyncio.gather(*[each.stop() for each in both])


async def first_frame(cluster: Cluster, stream: str) -> bytes:
    """The id of the first frame in the stream."""
    client = await nats.connect(cluster.urls[0])  # pyright: ignore[reportUnknownMemberType]
    found = decode((await client.jetstream().get_msg(stream, seq=1)).data or b"")  # pyright: ignore[reportUnknownMemberType]
    await client.close()
    assert isinstance(found, Frame)
    return found.id


@pytest.mark.asyncio(loop_scope="session")
async def test_a_frame_of_a_newer_version_is_reported_by_readyz_and_reads_at_once(
    tmp_path: Path, cluster: Cluster
) -> None:
    stream = f"newer-{secrets.token_hex(4)}"
    running = await node(tmp_path, "a", cluster, stream=stream).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            assert (await running.post(web, "livekit", started(1)))[0] == 200
            await publish(cluster, f"{stream}.frames", MAGIC + bytes([VERSION + 1]) + UNCOMPRESSED + b"...")
            message = f"of the stream is of version {VERSION + 1}, this Tracker knows {VERSION}: upgrade this node"
            for _ in range(2):
                await running.until(web, "/readyz", message)
                code, found = await running.text(web, "/v1/sessions")
                assert (code, message in found, "node-outdated" in found) == (503, True, True)
                code, problem = await running.post(web, "livekit", started(1))
                assert (code, problem["type"]) == (503, "urn:tracker:problem:node-outdated")
                await running.stop()
                await running.start()
    finally:
        await running.stop()
