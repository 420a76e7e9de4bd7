"""A bundle is made: records, proofs, timeline, checkpoint, page, manifest, in that order, into one file.

    records      each as the log has it now, then the erasures that erased ones depend on
    checkpoint   the newest that covers them all; where there is none, a new one (or none, and the bundle says why)
    proofs       each against that checkpoint's tree
    timeline     as whoever asks gets it from the API (`Told`)

Memory is bounded by a page of rows, whatever the size of the session. LIMIT: an erasure is one record, and may tell of other
sessions erased with it (in pseudonyms); its proof needs all of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

import msgspec

from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.contents import BundleContents
from tracker.evidence.bundle.manifest import CHECKPOINT, FORMAT, KEY, MANIFEST, PARTS, PROOFS, README, RECORDS, SMALL_BYTES, TIMELINE, InclusionProof, Manifest, InferredEnd, ReadingSettings, Tree, SessionIdentity, WriterVersion, encode_manifest  # fmt: skip
from tracker.evidence.bundle.record_lines import RecordLine, encode_line
from tracker.evidence.bundle.zip_writer import BundleWriter, Piecewise
from tracker.domain.deliveries import LOST, OURS, Micros, Record
from tracker.domain.record_json import exact_time
from tracker.log.erasure_records import ErasureBody
from tracker.errors import EvidenceError, LogCorrupt, LogUnavailable, NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import open_checkpoint
from tracker.log.merkle.cosignature import with_cosignatures
from tracker.log.merkle.note import Verifier
from tracker.log.merkle.tree import ReadTile, inclusion_proof, root_at
from tracker.log.contract import Log
from tracker.views.contract import READING, ViewsReader

CACHED_TILES = 512
WRITE_BYTES = 256 * 1024
CONCURRENT_READS = 16
NO_SIGNING_KEY = "The log this comes from has no signing key (the operator makes one with `tracker init`)"
NOT_SIGNED_YET = (
    "The node that signs this log has not signed all of these records yet (ask again after its next checkpoint)"
)

MaySee = Callable[[str], bool]
"""Whether whoever asks may see a source."""


class BundleSettings(NamedTuple):
    """What bundles need of the operator. `sign` makes a checkpoint of the log as it is; None: there is no key here.

    `keys` gives every public key of checkpoints, [] where nobody signs. `hidden`: fields nobody sees, by source. `frozen`: the views of one moment.
    `gate`: how many are made at once.
    """

    sign: Callable[[], Awaitable[object]] | None
    keys: Callable[[], Awaitable[Sequence[Verifier]]]
    hidden: Mapping[str, frozenset[str]]
    open_snapshot: Callable[[], AbstractAsyncContextManager[ViewsReader]]
    gate: asyncio.Semaphore


class BundleRequest(NamedTuple):
    """What to make. `positions`: the records behind the session, ascending."""

    contents: BundleContents
    positions: AsyncIterator[Sequence[int]]
    sees: MaySee
    made_at: Micros
    stuck_after: Micros


async def write_bundle(file: IO[bytes], log: Log, bundling: BundleSettings, wanted: BundleRequest) -> Manifest:
    """Write one bundle into `file`. Raises `LogError`, `ViewsError`, `EvidenceError` (the log cannot be signed)."""
    making = _Making(file, log, bundling, wanted)
    try:
        return await making.run()
    except BaseException:
        making.abandon()
        raise


async def timeline_json(told: BundleContents, seen: Callable[[Sequence[msgspec.Struct]], None]) -> AsyncIterator[bytes]:
    """timeline.json in pieces; `seen` gets the entries. There is one spelling."""
    yield b'{"session":' + msgspec.json.encode(told.session)
    for part in PARTS:
        yield b',\n"' + part.encode() + b'":['
        is_first = True
        async for rows in told.parts[part]:
            for row in rows:
                yield (b"\n" if is_first else b",\n") + msgspec.json.encode(row)
                is_first = False
            if part == "timeline":
                seen(rows)
        yield b"]"
    yield b"}\n"


class _Making:
    def __init__(self, file: IO[bytes], log: Log, bundling: BundleSettings, wanted: BundleRequest) -> None:
        self._log = log
        self._bundling = bundling
        self._wanted = wanted
        self._writer = BundleWriter(file)
        self._positions: list[int] = []
        self._erasures: list[int] = []
        self._withheld: list[int] = []
        self._entries = 0

    async def run(self) -> Manifest:
        records = await self._write_records()
        keys = await self._bundling.keys()
        size, root, note, why = await self._checkpoint(max(self._positions, default=0), keys)
        await self._write_proofs(size, root)
        with SpooledTemporaryFile[bytes](max_size=1024 * 1024) as rows:
            await self._write_timeline(rows)
            if note is not None:
                self._writer.add(CHECKPOINT, note.encode())
                self._writer.add(KEY, "".join(f"{key}\n" for key in keys).encode())
            manifest = self._manifest(records, Tree(size=size, root=_encoded(root), why_unsigned=why))
            await self._write_page(manifest, rows)
        manifest = msgspec.structs.replace(manifest, files=list(self._writer.members))
        self._writer.add(MANIFEST, encode_manifest(manifest))
        await asyncio.to_thread(self._writer.close)
        return manifest

    def abandon(self) -> None:
        """Let go of the file; what is in it is no bundle."""
        with contextlib.suppress(OSError):
            self._writer.close()

    async def _write_records(self) -> int:
        erasures: set[int] = set()
        with self._writer.member(RECORDS) as into:
            pieces = _Pieces(into)
            async for positions in self._wanted.positions:
                for start in range(0, len(positions), CONCURRENT_READS):
                    some = positions[start : start + CONCURRENT_READS]
                    for line in await asyncio.gather(*map(self._line, some)):
                        if line.record.erased_by not in {None, LOST}:
                            erasures.add(line.record.erased_by or LOST)
                        await pieces.write(encode_line(line))
                    self._positions += some
            records = len(self._positions)
            self._erasures = sorted(erasures)
            for position in self._erasures:
                line = await self._line(position)
                if not await self._may_be_seen(line.record):
                    self._withheld.append(position)
                    blank = msgspec.structs.replace(line.record, proof=b"{}", body=b"")
                    line = RecordLine(blank, line.leaf._replace(salt=None), is_withheld=True)
                self._positions.append(position)
                await pieces.write(encode_line(line))
            await pieces.end()
        return records

    async def _line(self, position: int) -> RecordLine:
        # Somebody may erase it between the two questions: then both are asked again.
        for _ in range(3):
            record, leaf = await self._log.record(position), await self._log.leaf(position)
            if record is None or leaf is None:
                raise LogCorrupt(f"the log has no whole record at position {position}: run `tracker verify`")
            if record.erased_by is not None:
                return RecordLine(record, leaf._replace(salt=None))
            if leaf.commitment is None or leaf.salt is not None:
                return RecordLine(record, leaf)
        raise LogUnavailable(f"the key of the record at position {position} cannot be read now")

    async def _may_be_seen(self, erasure: Record) -> bool:
        """Whether an erasure tells only of sources whoever asks may see."""
        for each in msgspec.json.decode(erasure.body, type=ErasureBody).erased:
            record = await self._log.record(each.position)
            if record is None or not (record.vendor == OURS or self._wanted.sees(record.source)):
                return False
        return True

    async def _checkpoint(self, last: int, keys: Sequence[Verifier]) -> tuple[int, bytes, str | None, str | None]:
        """(size, root, note, why there is no note) of the tree to prove against; it holds position `last`."""
        kept = await self._log.last_checkpoint()
        if (kept is None or kept[0] < last) and self._bundling.sign is not None:
            await self._bundling.sign()
            kept = await self._log.last_checkpoint()
        if kept is None or kept[0] < last or not keys:
            head = await self._log.tree_head()
            return head.size, head.root, None, NOT_SIGNED_YET if keys else NO_SIGNING_KEY
        try:
            signed = open_checkpoint(kept[1], keys)
        except (NoteMalformed, NoteUnverified) as error:
            raise EvidenceError(f"the newest checkpoint cannot be believed: {error}") from None
        if signed.size != kept[0] or signed.root != await self._root(signed.size):
            raise EvidenceError("the log is not the one its newest checkpoint signed: run `tracker verify`")
        note = with_cosignatures(kept[1], await self._log.cosignatures(signed.size))
        return signed.size, signed.root, note, None

    async def _root(self, size: int) -> bytes | None:
        try:
            return await root_at(size, self._log.tile)
        except IndexError:
            return None

    async def _write_proofs(self, size: int, root: bytes) -> None:
        tile = _remembering(self._log.tile)
        with self._writer.member(PROOFS) as into:
            pieces = _Pieces(into)
            await pieces.write(b'{"size":%d,"root":%s,"inclusion":[' % (size, msgspec.json.encode(_encoded(root))))
            for n, position in enumerate(self._positions):
                try:
                    hashes = await inclusion_proof(position - 1, size, tile)
                except IndexError:
                    raise LogCorrupt("the tree of the log lacks hashes: run `tracker verify`") from None
                proof = InclusionProof(position=position, hashes=[_encoded(each) for each in hashes])
                await pieces.write((b",\n" if n else b"\n") + msgspec.json.encode(proof))
                await asyncio.sleep(0)
            await pieces.write(b"]}\n")
            await pieces.end()

    async def _write_timeline(self, rows: IO[bytes]) -> None:
        def seen(entries: Sequence[msgspec.Struct]) -> None:
            self._entries += len(entries)
            told: Iterable[dict[str, Any]] = map(msgspec.to_builtins, entries)
            rows.writelines(map(readme_page.page_row, told))

        with self._writer.member(TIMELINE) as into:
            pieces = _Pieces(into)
            async for piece in timeline_json(self._wanted.contents, seen):
                await pieces.write(piece)
            await pieces.end()

    async def _write_page(self, manifest: Manifest, rows: IO[bytes]) -> None:
        rows.seek(0)
        with self._writer.member(README) as into:
            into.write(readme_page.page_top(manifest))
            while piece := await asyncio.to_thread(rows.read, WRITE_BYTES):
                await asyncio.to_thread(into.write, piece)
            into.write(readme_page.END.encode())

    def _manifest(self, records: int, tree: Tree) -> Manifest:
        row, wanted = self._wanted.contents.row, self._wanted
        end = None
        if row.end is not None and row.end.provenance == "inferred" and row.ended_at is not None:
            end = InferredEnd(at=exact_time(row.ended_at), reason=row.end.reason)
        return Manifest(
            format=FORMAT,
            made_at=exact_time(wanted.made_at),
            tracker=WriterVersion(version=version("tracker"), reading=READING),
            session=SessionIdentity(id=row.id, source=row.source, vendor=row.vendor),
            records=records,
            erasures=len(self._erasures),
            withheld=self._withheld,
            entries=self._entries,
            tree=tree,
            reading=ReadingSettings(
                hidden=sorted(self._bundling.hidden.get(row.source, ())),
                stuck_after_ms=wanted.stuck_after // 1000,
                inferred_end=end,
            ),
            files=list(self._writer.members),
        )


class _Pieces:
    """Small pieces gathered into larger ones, compressed off the loop."""

    def __init__(self, into: Piecewise) -> None:
        self._into = into
        self._held: list[bytes] = []
        self._size = 0

    async def write(self, piece: bytes) -> None:
        self._held.append(piece)
        self._size += len(piece)
        if self._size >= WRITE_BYTES:
            await self.end()

    async def end(self) -> None:
        held, self._held, self._size = b"".join(self._held), [], 0
        if len(held) > SMALL_BYTES:
            await asyncio.to_thread(self._into.write, held)
        elif held:
            self._into.write(held)


def _remembering(tile: ReadTile) -> ReadTile:
    """The same tiles; the last few are read once: proofs of one session share most of theirs."""
    known: OrderedDict[tuple[int, int], Sequence[bytes]] = OrderedDict()

    async def remembered(level: int, n: int) -> Sequence[bytes]:
        if (level, n) not in known:
            known[level, n] = await tile(level, n)
            if len(known) > CACHED_TILES:
                known.popitem(last=False)
        known.move_to_end((level, n))
        return known[level, n]

    return remembered


def _encoded(found: bytes) -> str:
    return base64.b64encode(found).decode()
