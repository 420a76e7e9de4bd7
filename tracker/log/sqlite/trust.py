"""Which messages about the tree a replica keeps: those signed with a key that it knows. All others are set aside.

    Signed      by a known key. The first of all brings its key, where it is about records that are here
    Cosigned    by a known key named <origin>/<node>. The first of a name brings its key
    Complaint   about a checkpoint that is kept. It has no signature: it may be a false alarm, and silences nobody

Known are the keys that the operator names; where he names none, those that came first: every node reads the same messages
in the same order. What is set aside moves nothing, and is looked at again when the replica is next opened: somebody may
have named its key meanwhile.

LIMIT: before the first checkpoint whoever may publish can name a key. The signing node says so then, and signs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import aiosqlite
import msgspec

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import read_checkpoint, read_checkpoint_text
from tracker.log.merkle.cosignature import CosignerKey, verify_cosignatures, with_cosignatures
from tracker.log.merkle.note import Verifier, open_note, read_note
from tracker.log.sqlite.messages import SELECT_NAMED_KEY, store_statements
from tracker.log.cluster.messages import DivergenceReport, CosignedTree, SignedTree, TreeMessage, decode, encode

MOST_COSIGNERS = 50
"""Names that bring their own key. A note has room for no more than 100 lines."""

MOST_ASIDE = 10_000
"""All are looked at again when the replica is opened."""
WHY_LENGTH = 300

SELECT_ANY_CHECKPOINT = "SELECT 1 FROM checkpoints LIMIT 1"
SELECT_NOTE = "SELECT note FROM checkpoints WHERE size = ?"
SELECT_COSIGNER = "SELECT key FROM cosigners WHERE name = ?"
SELECT_COSIGNERS = "SELECT count(*) FROM cosigners"
INSERT_COSIGNER = "INSERT INTO cosigners (name, key) VALUES (?, ?)"
INSERT_ASIDE = """
INSERT OR IGNORE INTO quarantine (sequence, message, why) SELECT ?, ?, ? WHERE (SELECT count(*) FROM quarantine) < ?
"""
SELECT_ASIDE = "SELECT sequence, message FROM quarantine ORDER BY sequence"
COUNT_ASIDE = "SELECT count(*) FROM quarantine"
DELETE_ASIDE = "DELETE FROM quarantine WHERE sequence = ?"


class TrustedKeys(NamedTuple):
    """The keys an operator names: of whoever signs checkpoints of this log, and of nodes that cosign."""

    verifiers: Sequence[Verifier] = ()
    cosigners: Sequence[CosignerKey] = ()


class TrustPolicy:
    """One transaction's look at what is said. `connection` is in it."""

    def __init__(self, connection: aiosqlite.Connection, known: TrustedKeys) -> None:
        self._connection = connection
        self._known = known

    async def store(self, voucher: TreeMessage, head: int) -> str | None:
        """Keep it where it is to be believed; else say why it is not. `head`: records there were when it was said."""
        try:
            if isinstance(voucher, SignedTree):
                voucher = msgspec.structs.replace(voucher, key=str(await self._signer_of(voucher, head)))
            else:
                note = await self._one(SELECT_NOTE, voucher.size)
                if note is None:
                    return "no checkpoint of that size is kept"
                if isinstance(voucher, CosignedTree):
                    await self._expect_cosigned(voucher, note)
        except (NoteMalformed, NoteUnverified) as error:
            return str(error)[:WHY_LENGTH]  # it quotes what somebody sent
        for statement in store_statements(voucher):
            await self._connection.execute(*statement)
        return None

    async def look_again(self) -> None:
        """Keep what can be believed by now of what was set aside."""
        for sequence, message in await self._connection.execute_fetchall(SELECT_ASIDE):
            voucher = decode(message)
            if voucher is not None and await self.store(voucher, head=0) is None:
                await self._connection.execute(DELETE_ASIDE, (sequence,))

    async def quarantine(self, sequence: int, voucher: TreeMessage, why: str) -> None:
        """Keep it where nothing looks at it; what is too much is in the stream all the same."""
        await self._connection.execute(INSERT_ASIDE, (sequence, encode(voucher), why, MOST_ASIDE))

    async def _signer_of(self, said: SignedTree, head: int) -> Verifier:
        """Whose checkpoint it is, whatever it says of that itself. Raises `NoteMalformed`, `NoteUnverified`."""
        keys = list(self._known.verifiers)
        if not keys and (named := await self._one(SELECT_NAMED_KEY)) is not None:
            keys.append(Verifier.read(named))
        # Also beside keys of ours: a second node that signs has to see that there is a first one, and to sign nothing.
        if said.key and said.size <= head and await self._one(SELECT_ANY_CHECKPOINT) is None:
            keys.append(Verifier.read(said.key))
        opened = open_note(said.note, keys)
        signed = read_checkpoint_text(opened.text)
        if signed.size != said.size or signed.origin not in {each.name for each in opened.signers}:
            raise NoteMalformed(
                f"it is about {signed.size} records of {signed.origin!r}, not {said.size} of its signer's"
            )
        if len(read_note(said.note).signatures) != len(opened.signers):
            raise NoteMalformed("it has more signatures than those of keys that are known: they belong under it")
        if await self._one(SELECT_NOTE, said.size) not in {None, said.note}:
            raise NoteUnverified("another checkpoint of that size is kept already")
        return opened.signers[0]

    async def _expect_cosigned(self, said: CosignedTree, note: str) -> None:
        if said.name != f"{read_checkpoint(note).origin}/{said.node}":
            raise NoteMalformed(f"the node {said.node!r} does not cosign as {said.name!r}")
        # Nothing but the line: a signature that is in the note already says nothing of it.
        alone = with_cosignatures(f"{read_note(note).text}\n", [said.line])
        if len(read_note(alone).signatures) != 1:
            raise NoteMalformed("it is more than one line")
        keys = [each for each in self._known.cosigners if each.name == said.name]
        if not keys and (named := await self._one(SELECT_COSIGNER, said.name)) is not None:
            keys.append(CosignerKey.read(named))
        is_new = not keys
        if is_new and said.key and await self._one(SELECT_COSIGNERS) < MOST_COSIGNERS:
            keys.append(CosignerKey.read(said.key))
        if not [each for each in verify_cosignatures(alone, keys) if each.key.name == said.name]:
            raise NoteUnverified(f"no key that is known for {said.name!r} made that line")
        if is_new:
            await self._connection.execute(INSERT_COSIGNER, (said.name, said.key))

    async def _one(self, question: str, *asked: Any) -> Any:
        """The first value of the first row, None where there is none."""
        for row in await self._connection.execute_fetchall(question, asked):
            return row[0]
        return None


def about(voucher: TreeMessage) -> str:
    """What a voucher is, for people."""
    match voucher:
        case SignedTree():
            return f"the checkpoint of {voucher.size} records"
        case CosignedTree():
            return f"a cosignature under the checkpoint of {voucher.size} records"
        case DivergenceReport():
            return f"a complaint about the checkpoint of {voucher.size} records"
