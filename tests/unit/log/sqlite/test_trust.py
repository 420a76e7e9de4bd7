"""A message about the tree changes a replica only if a known key signed it, no matter who published it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.contracts.log_contract import delivery
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.cosignature import CosignerKey, cosign
from tracker.log.merkle.note import Signer, read_note, sign_note
from tracker.log.sqlite import trust
from tracker.log.frames import frame_row
from tracker.log.sqlite.trust import MAX_COSIGNERS, TrustedKeys
from tracker.log.sqlite.replica import StreamEntry, Replica
from tracker.log.cluster.messages import DivergenceReport, CosignedTree, SignedTree, TreeMessage

OURS, THEIRS = Signer.generate("log"), Signer.generate("log")
B, NOT_B = Signer.generate("log/b"), Signer.generate("log/b")
NO_KEYS, KNOWN_KEYS = TrustedKeys(), TrustedKeys([OURS.verifier], [CosignerKey.from_signer(B)])
HUGE = 10**15


def signed(
    size: int, by: Signer = OURS, *, root: bytes = bytes(32), key: str | None = None, about: int = 0
) -> SignedTree:
    note = sign_note(checkpoint_text("log", about or size, root), [by])
    return SignedTree("a", size, note, str(by.verifier) if key is None else key)


def cosigning(size: int, by: Signer = B, *, name: str = "log/b", node: str = "b", note: str = "") -> CosignedTree:
    line = cosign(read_note(note or signed(size).note).text, by, 5)
    return CosignedTree(node, size, name, line, str(CosignerKey.from_signer(by)))


class MessageReplica:
    """A replica of six records to which messages about the tree are applied."""

    def __init__(self, log: Replica) -> None:
        self.log, self.sequence = log, 1

    async def apply(self, *messages: TreeMessage, at_once: bool = False) -> list[int]:
        """Apply the messages one by one, or all at once; returns how many are quarantined after each."""
        entries = [StreamEntry(self.sequence + n, b"", tree_message=each) for n, each in enumerate(messages, 1)]
        self.sequence += len(entries)
        found: list[int] = []
        for some in [entries] if at_once else [[each] for each in entries]:
            await self.log.apply(some)
            found.append(await self.log.quarantined_count())
        return found

    async def sizes(self) -> list[int]:
        return [size for size, _ in await self.log.checkpoints()]


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[MessageReplica]:
    await Replica.init(tmp_path / "log.db", log_id="x", stream="s")
    log = await Replica.open(tmp_path / "log.db")
    await log.apply([StreamEntry(1, b"", [frame_row(delivery(f"k{n}")) for n in range(6)])])
    yield MessageReplica(log)
    await log.close()


@pytest.mark.parametrize("known", [NO_KEYS, KNOWN_KEYS])
async def test_messages_of_the_signer_and_of_the_cosigners_are_stored(
    replica: MessageReplica, known: TrustedKeys
) -> None:
    await replica.log.set_trusted_keys(known)
    messages = [signed(2), cosigning(2), signed(5), cosigning(5), DivergenceReport("c", 5, bytes(32), 3)]
    assert await replica.apply(*messages, at_once=True) == [0]
    assert await replica.sizes() == [2, 5]
    assert [len(await replica.log.cosignatures(size)) for size in (2, 5)] == [1, 1]
    assert await replica.log.divergence_reports() == [messages[-1]]
    assert await replica.log.announced_key() == str(OURS.verifier)


@pytest.mark.parametrize("known", [NO_KEYS, KNOWN_KEYS])
@pytest.mark.parametrize(
    "forged",
    [
        signed(HUGE, THEIRS),
        signed(3, THEIRS),
        signed(1, THEIRS),
        signed(HUGE, THEIRS, key=str(OURS.verifier)),
        signed(HUGE, about=2),
        SignedTree("a", HUGE, signed(HUGE).note.replace(str(HUGE), str(HUGE + 1)), str(OURS.verifier)),
        SignedTree("a", 3, "garbage", "garbage"),
        signed(3, Signer.generate("x")),
        signed(2, root=b"x" * 32),
        msgspec.structs.replace(signed(3), note=signed(3).note + signed(3, THEIRS).note.rpartition("\n\n")[2]),
        cosigning(2, NOT_B),
        cosigning(3),
        cosigning(2, note=signed(2, root=b"x" * 32).note),
        cosigning(2, Signer.generate("log"), name="log"),
        cosigning(2, B, name="log/b", node="c"),
        CosignedTree("b", 2, "log/b", "garbage\n", str(CosignerKey.from_signer(B))),
        CosignedTree("b", 2, "log/b", cosigning(2).line * 2, str(CosignerKey.from_signer(B))),
        DivergenceReport("b", HUGE, bytes(32), None),
    ],
)
async def test_a_forged_message_changes_nothing_and_is_counted(
    replica: MessageReplica, known: TrustedKeys, forged: TreeMessage
) -> None:
    await replica.log.set_trusted_keys(known)
    assert await replica.apply(signed(2), cosigning(2)) == [0, 0]
    before = await everything(replica.log)
    assert await replica.apply(forged) == [1]
    assert await everything(replica.log) == before
    # Authentic messages are still applied.
    assert await replica.apply(signed(3), cosigning(3), signed(6), cosigning(6)) == [1] * 4
    assert await replica.sizes() == [2, 3, 6]
    assert [len(await replica.log.cosignatures(size)) for size in (3, 6)] == [1, 1]


async def everything(log: Replica) -> list[object]:
    sizes = [size for size, _ in await log.checkpoints()]
    lines = [await log.cosignatures(size) for size in sizes]
    return [
        await log.checkpoints(),
        lines,
        await log.divergence_reports(),
        await log.announced_key(),
        await log.last_checkpoint(),
    ]


@pytest.mark.parametrize(
    "forged",
    [signed(HUGE, THEIRS), SignedTree("a", 3, signed(3, THEIRS).note, str(OURS.verifier)), cosigning(2, NOT_B)],
)
async def test_a_checkpoint_beyond_the_log_announces_no_key(replica: MessageReplica, forged: TreeMessage) -> None:
    await replica.log.set_trusted_keys(NO_KEYS)
    assert await replica.apply(forged, signed(2), cosigning(2)) == [1, 1, 1]
    assert await replica.sizes() == [2]
    assert await replica.log.announced_key() == str(OURS.verifier)


async def test_a_checkpoint_of_records_later_in_the_same_batch_announces_no_key(replica: MessageReplica) -> None:
    await replica.log.set_trusted_keys(NO_KEYS)
    rows = [frame_row(delivery("later"))]
    await replica.log.apply(
        [
            StreamEntry(2, b"", tree_message=signed(7, THEIRS)),
            StreamEntry(3, b"", rows),
            StreamEntry(4, b"", tree_message=signed(7)),
        ]
    )
    assert (await replica.log.announced_key(), await replica.log.quarantined_count()) == (str(OURS.verifier), 1)


async def test_quarantined_messages_of_a_key_are_stored_once_the_key_is_trusted(
    replica: MessageReplica, tmp_path: Path
) -> None:
    await replica.log.set_trusted_keys(KNOWN_KEYS)
    new = Signer.generate("log")
    line = cosigning(4, note=signed(4, new).note)
    assert await replica.apply(signed(2), signed(4, new), line, signed(5, THEIRS)) == [0, 1, 2, 3]
    await replica.log.set_trusted_keys(TrustedKeys([new.verifier, OURS.verifier], [CosignerKey.from_signer(B)]))
    assert (await replica.sizes(), await replica.log.quarantined_count()) == ([2, 4], 1)
    assert await replica.log.cosignatures(4) == [line.line]


async def test_a_node_that_trusts_another_signer_still_sees_the_announced_key(replica: MessageReplica) -> None:
    await replica.log.set_trusted_keys(TrustedKeys([THEIRS.verifier]))
    assert await replica.apply(signed(2), signed(4)) == [0, 1]
    assert await replica.log.announced_key() == str(OURS.verifier)


async def test_many_unknown_cosigners_leave_room_for_the_known_ones(replica: MessageReplica) -> None:
    await replica.log.set_trusted_keys(
        TrustedKeys([OURS.verifier], [CosignerKey.from_signer(Signer.generate("log/told"))])
    )
    many = [
        cosigning(2, Signer.generate(f"log/n{n}"), name=f"log/n{n}", node=f"n{n}") for n in range(MAX_COSIGNERS + 7)
    ]
    assert (await replica.apply(signed(2), cosigning(2), *many))[-1] == 8
    assert await replica.apply(signed(4), cosigning(4)) == [8, 8]
    assert len(await replica.log.cosignatures(4)) == 1


async def test_only_the_node_itself_can_settle_its_divergence_report(replica: MessageReplica) -> None:
    await replica.log.set_trusted_keys(NO_KEYS)
    report = DivergenceReport("b", 2, bytes(32), 1)
    await replica.apply(signed(2), report, signed(4))
    other = Signer.generate("log/c")
    await replica.apply(cosigning(4, other, name="log/c", node="b"), cosigning(4, other, name="log/c", node="c"))
    assert await replica.log.divergence_reports() == [report]
    await replica.apply(cosigning(4))
    assert await replica.log.divergence_reports() == []


async def test_the_number_of_quarantined_messages_is_bounded(
    replica: MessageReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MAX_QUARANTINED", 2)
    await replica.log.set_trusted_keys(KNOWN_KEYS)
    assert await replica.apply(*[signed(HUGE + n, THEIRS) for n in range(4)], signed(2)) == [1, 2, 2, 2, 2]
    assert await replica.sizes() == [2]
