"""The contract of every log engine: a suite to inherit, with one fixture named `log`."""

from __future__ import annotations

import asyncio

import pytest

from tracker.domain.deliveries import Appended, Verified
from tracker.errors import LogUnavailable
from tracker.log.merkle.hashing import EMPTY_ROOT
from tracker.log.merkle.leaf import record_leaf_hash
from tracker.log.merkle.tree import Frontier, consistency_proof, verify_consistency, inclusion_proof, inclusion_root
from tracker.log.contract import Log


def delivery(key: str, *, source: str = "lk", body: bytes = b"{}", event: str = "room_started") -> Verified:
    """A verified delivery with that dedupe key."""
    return Verified(
        source=source, vendor="livekit", event=event, dedupe_key=key, received_at=1_700_000_000_000_000,
        origin="webhook", proof=b'{"iss":"k"}', body=body,
    )  # fmt: skip


class LogContract:
    """Inherit it and add a fixture `log`: an empty, open log. `sealed`: dedupe keys are stored as keyed hashes."""

    sealed = False

    async def test_an_empty_log_has_head_zero(self, log: Log) -> None:
        assert await log.head() == 0
        assert await log.record(1) is None
        assert [chunk async for chunk in log.read(0)] == []

    async def test_positions_are_one_two_three(self, log: Log) -> None:
        assert [await log.append(delivery(key)) for key in "abc"] == [Appended(n, duplicate=False) for n in (1, 2, 3)]
        assert await log.head() == 3

    async def test_a_repeat_returns_the_first_position_and_leaves_no_gap(self, log: Log) -> None:
        await log.append(delivery("a"))
        assert await log.append(delivery("a", body=b"other")) == Appended(1, duplicate=True)
        assert await log.append(delivery("b")) == Appended(2, duplicate=False)
        first = await log.record(1)
        assert first is not None
        assert first.body == b"{}"

    async def test_the_same_key_of_two_sources_is_two_records(self, log: Log) -> None:
        await log.append(delivery("a", source="one"))
        assert await log.append(delivery("a", source="two")) == Appended(2, duplicate=False)

    async def test_a_record_is_stored_exactly_as_it_was_received(self, log: Log) -> None:
        body = bytes(range(256)) * 3
        verified = delivery("k\0ä—", body=body, event="Ünïcode 🎥")
        await log.append(verified)
        record = await log.record(1)
        assert record is not None
        for field in set(Verified.__struct_fields__) - ({"dedupe_key"} if self.sealed else set()):
            assert getattr(record, field) == getattr(verified, field)
        assert record.position == 1

    async def test_an_empty_body_is_stored(self, log: Log) -> None:
        await log.append(delivery("a", body=b""))
        record = await log.record(1)
        assert record is not None
        assert record.body == b""

    async def test_a_text_that_stores_cannot_hold_is_escaped(self, log: Log) -> None:
        await log.append(delivery("\ud800", event="\udfff"))
        record = await log.record(1)
        assert record is not None
        assert record.event == "\\udfff"
        assert self.sealed or record.dedupe_key == "\\ud800"
        assert await log.append(delivery("\ud800")) == Appended(1, duplicate=True)

    async def test_append_for_sets_the_results_of_futures_in_the_order_of_the_calls(self, log: Log) -> None:
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Appended]] = [loop.create_future() for _ in range(4)]
        answers[1].cancel()  # the caller gave up; the record is stored all the same
        for answer, key in zip(answers, "abca", strict=True):
            log.append_for(answer, delivery(key))
        assert await answers[0] == Appended(1, duplicate=False)
        assert await answers[2] == Appended(3, duplicate=False)
        assert await answers[3] == Appended(1, duplicate=True)
        stored = [record.dedupe_key async for chunk in log.read(0) for record in chunk]
        assert len(stored) == 3
        assert self.sealed or stored == ["a", "b", "c"]

    async def test_a_batch_is_answered_in_order_including_its_own_repeats(self, log: Log) -> None:
        await log.append(delivery("b"))
        answers = await log.append_all([delivery(key) for key in ("a", "b", "a", "c")])
        assert answers == [
            Appended(2, duplicate=False), Appended(1, duplicate=True),
            Appended(2, duplicate=True), Appended(3, duplicate=False),
        ]  # fmt: skip
        assert await log.append_all([]) == []

    async def test_a_batch_larger_than_one_transaction_has_no_gaps_and_is_idempotent(self, log: Log) -> None:
        batch = [delivery(f"k{n}") for n in range(1203)]
        assert [answer.position for answer in await log.append_all(batch)] == list(range(1, 1204))
        again = await log.append_all(batch)
        assert again == [Appended(n, duplicate=True) for n in range(1, 1204)]
        assert await log.head() == 1203

    async def test_concurrent_appends_and_repeats_leave_no_gap(self, log: Log) -> None:
        answers = await asyncio.gather(*[log.append(delivery(f"k{n % 40}")) for n in range(120)])
        assert sorted(answer.position for answer in answers if not answer.duplicate) == list(range(1, 41))
        assert await log.head() == 40
        for n in range(40):
            assert len({answers[n + step].position for step in (0, 40, 80)}) == 1

    async def test_reading_returns_every_record_in_order_in_chunks_of_bounded_size(self, log: Log) -> None:
        await log.append_all([delivery(f"k{n}") for n in range(2100)])
        chunks = [chunk async for chunk in log.read(50)]
        assert [record.position for chunk in chunks for record in chunk] == list(range(51, 2101))
        assert max(map(len, chunks)) <= 1000

    async def test_reading_stops_at_the_limit(self, log: Log) -> None:
        await log.append_all([delivery(f"k{n}") for n in range(10)])
        assert [[record.position for record in chunk] async for chunk in log.read(3, limit=4)] == [[4, 5, 6, 7]]
        assert [chunk async for chunk in log.read(3, limit=0)] == []
        assert [chunk async for chunk in log.read(10)] == []
        assert [chunk async for chunk in log.read(99)] == []

    async def test_reading_during_writes_shows_no_gap(self, log: Log) -> None:
        async def write() -> None:
            for n in range(0, 300, 3):
                await asyncio.gather(*[log.append(delivery(f"k{n + step}")) for step in range(3)])

        seen: list[int] = []
        writing = asyncio.ensure_future(write())
        while len(seen) < 300:
            async for chunk in log.read(len(seen)):
                seen += [record.position for record in chunk]
            await asyncio.sleep(0)
        await writing
        assert seen == list(range(1, 301))

    async def test_wait_returns_at_once_if_there_are_more_records(self, log: Log) -> None:
        await log.append(delivery("a"))
        assert await asyncio.wait_for(log.wait(0, 30), 2) == 1

    async def test_an_append_wakes_every_waiter(self, log: Log) -> None:
        waiters = [asyncio.ensure_future(log.wait(0, 30)) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(waiter.done() for waiter in waiters)
        await log.append(delivery("a"))
        assert await asyncio.wait_for(asyncio.gather(*waiters), 2) == [1, 1, 1]

    async def test_wait_ends_with_the_timeout(self, log: Log) -> None:
        assert await log.wait(0, 0.03) == 0
        assert await log.wait(5, 0) == 0

    async def test_cancelled_appends_lose_and_repeat_nothing(self, log: Log) -> None:
        appends = [asyncio.ensure_future(log.append(delivery(f"k{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        for task in appends[::2]:
            task.cancel()
        done = await asyncio.gather(*appends, return_exceptions=True)
        stored = [answer.position for answer in done if isinstance(answer, Appended)]
        assert len(stored) >= 10
        assert len(set(stored)) == len(stored)
        await log.append(delivery("after"))
        read = [record.position async for chunk in log.read(0) for record in chunk]
        assert read == list(range(1, await log.head() + 1))

    async def test_close_commits_accepted_appends(self, log: Log) -> None:
        appends = [asyncio.ensure_future(log.append(delivery(f"k{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        await log.close()
        assert sorted(answer.position for answer in await asyncio.gather(*appends)) == list(range(1, 21))

    async def test_a_closed_log_refuses_every_call_and_can_be_closed_again(self, log: Log) -> None:
        await log.close()
        await log.close()
        with pytest.raises(LogUnavailable):
            await log.append(delivery("a"))
        refused: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        log.append_for(refused, delivery("a"))
        with pytest.raises(LogUnavailable):
            await refused
        with pytest.raises(LogUnavailable):
            await log.head()

    async def test_every_record_is_a_leaf_of_the_tree(self, log: Log) -> None:
        assert await log.tree_head() == (0, EMPTY_ROOT)
        await log.append_all([delivery(f"k{n}") for n in range(300)])
        await log.append(delivery("k0"))
        leaves: list[bytes] = []
        async for chunk in log.read_stored(0):
            leaves += [record_leaf_hash(*each[:9], commitment=each.commitment) for each in chunk]
        frontier = Frontier()
        for leaf in leaves:
            frontier.append(leaf)
        assert await log.tree_head() == (300, frontier.root())
        assert await log.tile(0, 0) == leaves[:256]
        assert await log.tile(0, 1) == leaves[256:]
        assert len(await log.tile(1, 0)) == 1
        assert await log.tile(2, 0) == []
        stored = await log.leaf(299)
        assert stored is not None
        assert (stored.hash, stored.commitment) == (leaves[298], stored.commitment)
        assert (stored.commitment is not None) == self.sealed
        assert await log.leaf(301) is None

    async def test_stored_records_are_read_with_their_leaves(self, log: Log) -> None:
        await log.append_all([delivery(f"k{n}") for n in range(1200)])
        stored = [each async for chunk in log.read_stored(100) for each in chunk]
        assert [each.position for each in stored] == list(range(101, 1201))
        assert all(record_leaf_hash(*each[:9], each.commitment) == each.leaf for each in stored)

    async def test_a_proof_of_any_record_leads_to_the_root(self, log: Log) -> None:
        await log.append_all([delivery(f"k{n}") for n in range(700)])
        older = await log.tree_head()
        await log.append_all([delivery(f"l{n}") for n in range(70)])
        size, root = await log.tree_head()
        for position in (1, 256, 257, 512, 700, 770):
            stored = await log.leaf(position)
            assert stored is not None
            proof = await inclusion_proof(position - 1, size, log.tile)
            assert inclusion_root(position - 1, size, stored.hash, proof) == root
        assert verify_consistency(*older, size, root, await consistency_proof(older.size, size, log.tile))

    async def test_the_log_keeps_one_checkpoint_for_each_size(self, log: Log) -> None:
        assert await log.last_checkpoint() is None
        assert await log.store_checkpoint(5, "five")
        assert await log.store_checkpoint(12, "twelve")
        assert not await log.store_checkpoint(5, "another five")
        assert await log.last_checkpoint() == (12, "twelve")
        assert await log.checkpoints() == [(5, "five"), (12, "twelve")]
        assert await log.checkpoints(after=5) == [(12, "twelve")]
        assert await log.checkpoints(limit=1) == [(5, "five")]
