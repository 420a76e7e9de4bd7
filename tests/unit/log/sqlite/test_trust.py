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
NOBODY, TOLD = TrustedKeys(), TrustedKeys([OURS.verifier], [CosignerKey.from_signer(B)])
HUGE = 10**15


def signed(
    size: int, by: Signer = OURS, *, root: bytes = bytes(32), key: str | None = None, about: int = 0
) -> SignedTree:
    note = sign_note(checkpoint_text("log", about or size, root), [by])
    return SignedTree("a", size, note, str(by.verifier) if key is None else key)


def cosigning(size: int, by: Signer = B, *, name: str = "log/b", node: str = "b", note: str = "") -> CosignedTree:
    line = cosign(read_note(note or signed(size).note).text, by, 5)
    return CosignedTree(node, size, name, line, str(CosignerKey.from_signer(by)))


class Heard:
    """A replica of six records that applies one message after the other."""

    def __init__(self, log: Replica) -> None:
        self.log, self.sequence = log, 1

    async def hear(self, *said: TreeMessage, at_once: bool = False) -> list[int]:
        """How many of all that was said are set aside, after each."""
        entries = [StreamEntry(self.sequence + n, b"", tree_message=each) for n, each in enumerate(said, 1)]
        self.sequence += len(entries)
        found: list[int] = []
        for some in [entries] if at_once else [[each] for each in entries]:
            await self.log.apply(some)
            found.append(await self.log.quarantined_count())
        return found

    async def sizes(self) -> list[int]:
        return [size for size, _ in await self.log.checkpoints()]


@pytest.fixture
async def heard(tmp_path: Path) -> AsyncIterator[Heard]:
    await Replica.init(tmp_path / "log.db", log_id="x", stream="s")
    log = await Replica.open(tmp_path / "log.db")
    await log.apply([StreamEntry(1, b"", [frame_row(delivery(f"k{n}")) for n in range(6)])])
    yield Heard(log)
    await log.close()


@pytest.mark.parametrize("known", [NOBODY, TOLD])
async def test_the_word_of_the_signer_and_of_the_cosigners_is_kept(heard: Heard, known: TrustedKeys) -> None:
    await heard.log.set_trusted_keys(known)
    said = [signed(2), cosigning(2), signed(5), cosigning(5), DivergenceReport("c", 5, bytes(32), 3)]
    assert await heard.hear(*said, at_once=True) == [0]
    assert await heard.sizes() == [2, 5]
    assert [len(await heard.log.cosignatures(size)) for size in (2, 5)] == [1, 1]
    assert await heard.log.divergence_reports() == [said[-1]]
    assert await heard.log.announced_key() == str(OURS.verifier)


@pytest.mark.parametrize("known", [NOBODY, TOLD])
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
async def test_what_is_forged_moves_nothing_and_is_counted(
    heard: Heard, known: TrustedKeys, forged: TreeMessage
) -> None:
    await heard.log.set_trusted_keys(known)
    assert await heard.hear(signed(2), cosigning(2)) == [0, 0]
    before = await everything(heard.log)
    assert await heard.hear(forged) == [1]
    assert await everything(heard.log) == before
    # And nothing that is true is in its way.
    assert await heard.hear(signed(3), cosigning(3), signed(6), cosigning(6)) == [1] * 4
    assert await heard.sizes() == [2, 3, 6]
    assert [len(await heard.log.cosignatures(size)) for size in (3, 6)] == [1, 1]


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
async def test_nobody_names_himself_before_the_first_checkpoint_with_what_is_not_there(
    heard: Heard, forged: TreeMessage
) -> None:
    await heard.log.set_trusted_keys(NOBODY)
    assert await heard.hear(forged, signed(2), cosigning(2)) == [1, 1, 1]
    assert await heard.sizes() == [2]
    assert await heard.log.announced_key() == str(OURS.verifier)


async def test_a_checkpoint_about_records_that_come_later_in_the_same_batch_names_no_key(heard: Heard) -> None:
    await heard.log.set_trusted_keys(NOBODY)
    rows = [frame_row(delivery("later"))]
    await heard.log.apply(
        [
            StreamEntry(2, b"", tree_message=signed(7, THEIRS)),
            StreamEntry(3, b"", rows),
            StreamEntry(4, b"", tree_message=signed(7)),
        ]
    )
    assert (await heard.log.announced_key(), await heard.log.quarantined_count()) == (str(OURS.verifier), 1)


async def test_what_a_key_signed_before_somebody_named_it_is_kept_from_then_on(heard: Heard, tmp_path: Path) -> None:
    await heard.log.set_trusted_keys(TOLD)
    new = Signer.generate("log")
    line = cosigning(4, note=signed(4, new).note)
    assert await heard.hear(signed(2), signed(4, new), line, signed(5, THEIRS)) == [0, 1, 2, 3]
    await heard.log.set_trusted_keys(TrustedKeys([new.verifier, OURS.verifier], [CosignerKey.from_signer(B)]))
    assert (await heard.sizes(), await heard.log.quarantined_count()) == ([2, 4], 1)
    assert await heard.log.cosignatures(4) == [line.line]


async def test_a_second_signer_sees_that_there_is_a_first_one(heard: Heard) -> None:
    await heard.log.set_trusted_keys(TrustedKeys([THEIRS.verifier]))
    assert await heard.hear(signed(2), signed(4)) == [0, 1]
    assert await heard.log.announced_key() == str(OURS.verifier)


async def test_names_without_end_leave_room_for_the_nodes_there_are(heard: Heard) -> None:
    await heard.log.set_trusted_keys(
        TrustedKeys([OURS.verifier], [CosignerKey.from_signer(Signer.generate("log/told"))])
    )
    many = [
        cosigning(2, Signer.generate(f"log/n{n}"), name=f"log/n{n}", node=f"n{n}") for n in range(MAX_COSIGNERS + 7)
    ]
    assert (await heard.hear(signed(2), cosigning(2), *many))[-1] == 8
    assert await heard.hear(signed(4), cosigning(4)) == [8, 8]
    assert len(await heard.log.cosignatures(4)) == 1


async def test_an_alarm_is_settled_by_nobody_but_the_node_itself(heard: Heard) -> None:
    await heard.log.set_trusted_keys(NOBODY)
    complaint = DivergenceReport("b", 2, bytes(32), 1)
    await heard.hear(signed(2), complaint, signed(4))
    other = Signer.generate("log/c")
    await heard.hear(cosigning(4, other, name="log/c", node="b"), cosigning(4, other, name="log/c", node="c"))
    assert await heard.log.divergence_reports() == [complaint]
    await heard.hear(cosigning(4))
    assert await heard.log.divergence_reports() == []


async def test_not_more_is_set_aside_than_can_be_looked_at_again(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_QUARANTINED", 2)
    await heard.log.set_trusted_keys(TOLD)
    assert await heard.hear(*[signed(HUGE + n, THEIRS) for n in range(4)], signed(2)) == [1, 2, 2, 2, 2]
    assert await heard.sizes() == [2]
