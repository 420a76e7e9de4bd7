"""Messages about the tree in a SQLite log: which ones a replica trusts and stores, and how it reads them back.

    SignedTree         trusted with the signature of a known key. The first of all announces its key, if it is about records
                       that are here
    CosignedTree       trusted with the line of a known key named <origin>/<node>. The first of a name announces its key
    DivergenceReport   stored if its checkpoint is. It has no signature: it may be a false alarm, and stops no other node

Known keys are those that the operator configures; where there are none, those that were announced first: every node reads the
same messages in the same order. Other messages go to the quarantine: they change nothing, and are checked again when
the replica is next opened, as their key may have been configured by then.

LIMIT: before the first checkpoint, anyone who may publish to the stream can announce a key. The signing node then reports
a doubt, and signs nothing.
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
from tracker.log.sqlite.bulk import Statement
from tracker.log.cluster.messages import DivergenceReport, CosignedTree, SignedTree, TreeMessage, decode, encode

MAX_COSIGNERS = 50
"""How many cosigner names may announce their key. A note has room for 100 signature lines."""

MAX_QUARANTINED = 10_000
"""All of them are checked again when the replica is opened."""
MAX_REASON_LENGTH = 300

INSERT_CHECKPOINT_ONCE = """
INSERT INTO checkpoints (size, note) SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE size = ?1)
"""
INSERT_SIGNING_ONCE = "INSERT OR IGNORE INTO signings (size, node, key) VALUES (?, ?, ?)"
INSERT_COSIGNATURE_ONCE = "INSERT OR IGNORE INTO cosignatures (size, name, node, line) VALUES (?, ?, ?, ?)"
INSERT_DIVERGENCE_REPORT_ONCE = (
    "INSERT OR IGNORE INTO divergence_reports (size, node, root, position) VALUES (?, ?, ?, ?)"
)
SELECT_COSIGNATURES = "SELECT name, line FROM cosignatures WHERE size = ? ORDER BY name"
SELECT_HOLDERS = """
SELECT node FROM signings WHERE size = ?1 UNION ALL SELECT node FROM cosignatures WHERE size = ?1
"""
SELECT_ANNOUNCED_KEY = "SELECT key FROM signings WHERE key <> '' ORDER BY size LIMIT 1"
SELECT_SIGNING = "SELECT node FROM signings WHERE size = ?"
# A report is settled once its node has been replaced and has cosigned or signed a larger tree.
SELECT_DIVERGENCE_REPORTS = """
SELECT size, node, root, position FROM divergence_reports AS c
WHERE NOT EXISTS (SELECT 1 FROM cosignatures AS s WHERE s.node = c.node AND s.size > c.size)
AND NOT EXISTS (SELECT 1 FROM signings AS s WHERE s.node = c.node AND s.size > c.size) ORDER BY size, node LIMIT 1000
"""
SELECT_ANY_CHECKPOINT = "SELECT 1 FROM checkpoints LIMIT 1"
SELECT_NOTE = "SELECT note FROM checkpoints WHERE size = ?"
SELECT_COSIGNER = "SELECT key FROM cosigners WHERE name = ?"
SELECT_COSIGNERS = "SELECT count(*) FROM cosigners"
INSERT_COSIGNER = "INSERT INTO cosigners (name, key) VALUES (?, ?)"
INSERT_QUARANTINED = """
INSERT OR IGNORE INTO quarantine (sequence, message, why) SELECT ?, ?, ? WHERE (SELECT count(*) FROM quarantine) < ?
"""
SELECT_QUARANTINED = "SELECT sequence, message FROM quarantine ORDER BY sequence"
COUNT_QUARANTINED = "SELECT count(*) FROM quarantine"
DELETE_QUARANTINED = "DELETE FROM quarantine WHERE sequence = ?"


class TrustedKeys(NamedTuple):
    """The keys an operator configures: those that sign this log's checkpoints, and those of cosigning nodes."""

    verifiers: Sequence[Verifier] = ()
    cosigners: Sequence[CosignerKey] = ()


class TrustPolicy:
    """Checks and stores messages about the tree, in the open transaction of `connection`."""

    def __init__(self, connection: aiosqlite.Connection, known: TrustedKeys) -> None:
        self._connection = connection
        self._known = known

    async def store(self, message: TreeMessage, head: int) -> str | None:
        """Store a trusted message; return why another is not trusted. `head`: how many records preceded it."""
        try:
            if isinstance(message, SignedTree):
                message = msgspec.structs.replace(message, key=str(await self._verify_signer(message, head)))
            else:
                note = await self._one(SELECT_NOTE, message.size)
                if note is None:
                    return "no checkpoint of that size is stored"
                if isinstance(message, CosignedTree):
                    await self._verify_cosigner(message, note)
        except (NoteMalformed, NoteUnverified) as error:
            return str(error)[:MAX_REASON_LENGTH]  # it quotes what the sender wrote
        for statement in store_statements(message):
            await self._connection.execute(*statement)
        return None

    async def recheck_quarantine(self) -> None:
        """Store the quarantined messages that are trusted by now."""
        for sequence, data in await self._connection.execute_fetchall(SELECT_QUARANTINED):
            message = decode(data)
            if message is not None and await self.store(message, head=0) is None:
                await self._connection.execute(DELETE_QUARANTINED, (sequence,))

    async def quarantine(self, sequence: int, message: TreeMessage, reason: str) -> None:
        """Store an untrusted message, up to `MAX_QUARANTINED`; the stream has it in any case."""
        await self._connection.execute(INSERT_QUARANTINED, (sequence, encode(message), reason, MAX_QUARANTINED))

    async def _verify_signer(self, signed_tree: SignedTree, head: int) -> Verifier:
        """The known key that signed the checkpoint. Raises `NoteMalformed`, `NoteUnverified`."""
        keys = list(self._known.verifiers)
        if not keys and (named := await self._one(SELECT_ANNOUNCED_KEY)) is not None:
            keys.append(Verifier.read(named))
        # Even with configured keys: a second signing node has to see that there is a first one, and to sign nothing.
        if signed_tree.key and signed_tree.size <= head and await self._one(SELECT_ANY_CHECKPOINT) is None:
            keys.append(Verifier.read(signed_tree.key))
        opened = open_note(signed_tree.note, keys)
        signed = read_checkpoint_text(opened.text)
        if signed.size != signed_tree.size or signed.origin not in {each.name for each in opened.signers}:
            raise NoteMalformed(
                f"it is about {signed.size} records of {signed.origin!r}, not {signed_tree.size} of its signer's"
            )
        if len(read_note(signed_tree.note).signatures) != len(opened.signers):
            raise NoteMalformed("it has signatures of unknown keys: cosignatures are sent apart from it")
        if await self._one(SELECT_NOTE, signed_tree.size) not in {None, signed_tree.note}:
            raise NoteUnverified("another checkpoint of that size is stored already")
        return opened.signers[0]

    async def _verify_cosigner(self, cosigned: CosignedTree, note: str) -> None:
        if cosigned.name != f"{read_checkpoint(note).origin}/{cosigned.node}":
            raise NoteMalformed(f"the node {cosigned.node!r} does not cosign as {cosigned.name!r}")
        # Only the line counts: a signature that is in the note already proves nothing about it.
        cosigned_note = with_cosignatures(f"{read_note(note).text}\n", [cosigned.line])
        if len(read_note(cosigned_note).signatures) != 1:
            raise NoteMalformed("it is more than one line")
        keys = [each for each in self._known.cosigners if each.name == cosigned.name]
        if not keys and (named := await self._one(SELECT_COSIGNER, cosigned.name)) is not None:
            keys.append(CosignerKey.read(named))
        is_new = not keys
        if is_new and cosigned.key and await self._one(SELECT_COSIGNERS) < MAX_COSIGNERS:
            keys.append(CosignerKey.read(cosigned.key))
        if not [each for each in verify_cosignatures(cosigned_note, keys) if each.key.name == cosigned.name]:
            raise NoteUnverified(f"no known key of {cosigned.name!r} made that line")
        if is_new:
            await self._connection.execute(INSERT_COSIGNER, (cosigned.name, cosigned.key))

    async def _one(self, statement: str, *bound: Any) -> Any:
        """The first value of the first row, None where there is none."""
        for row in await self._connection.execute_fetchall(statement, bound):
            return row[0]
        return None


def describe(message: TreeMessage) -> str:
    """The message in words, for log lines."""
    match message:
        case SignedTree():
            return f"the checkpoint of {message.size} records"
        case CosignedTree():
            return f"a cosignature under the checkpoint of {message.size} records"
        case DivergenceReport():
            return f"a divergence report about the checkpoint of {message.size} records"


def store_statements(message: TreeMessage) -> list[Statement]:
    """The statements that store a message; they change nothing where it is stored already."""
    match message:
        case SignedTree():
            signing = (INSERT_SIGNING_ONCE, (message.size, message.node, message.key))
            return [(INSERT_CHECKPOINT_ONCE, (message.size, message.note)), signing]
        case CosignedTree():
            return [(INSERT_COSIGNATURE_ONCE, (message.size, message.name, message.node, message.line))]
        case DivergenceReport():
            row = (message.size, message.node, message.root, message.position)
            return [(INSERT_DIVERGENCE_REPORT_ONCE, row)]


def read_divergence_reports(rows: Sequence[tuple[Any, ...]]) -> list[DivergenceReport]:
    """The rows of `SELECT_DIVERGENCE_REPORTS`."""
    return [DivergenceReport(node, size, root, position) for size, node, root, position in rows]
