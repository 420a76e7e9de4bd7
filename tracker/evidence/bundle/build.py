"""Builds a bundle: records, proofs, timeline, checkpoint, page, manifest, signature, in this order, into one file.

    records      each as the log has it now, then the erasure records that erased ones depend on
    checkpoint   the newest that covers them all; if there is none, a new one (or none, and the bundle says why)
    proofs       of each record, against that checkpoint's tree
    timeline     as the API answers it to the person who asks (`BundleContents`)
    signature    of the manifest, by this node's key (or none, and the bundle says why)

Memory is bounded by one page of rows, whatever the size of the session. LIMIT: an erasure is one record, which may name
other sessions erased with it (by pseudonyms); its proof needs the whole record.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from tempfile import SpooledTemporaryFile
from typing import IO, NamedTuple

import msgspec

from tracker.config.version import tracker_version
from tracker.domain.deliveries import KEY_LOST, TRACKER, Micros, Record
from tracker.domain.record_json import format_micros
from tracker.errors import EvidenceError, LogCorrupt, LogUnavailable, NoteMalformed, NoteUnverified
from tracker.evidence.proof_schemes import covers_body
from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.contents import BundleContents
from tracker.evidence.bundle.manifest import (
    CHECKPOINT, FORMAT, KEY, MANIFEST, MAX_LINE_BYTES, PARTS, PROOFS, PROOFS_END, README, RECORDS, SIGNATURE, SMALL_BYTES,
    TIMELINE, InclusionProof, inferred_end, Manifest, ReadingSettings, SessionIdentity, Tree, WriterVersion,
    encode_manifest, proof_piece, proofs_start, signed_text,
)  # fmt: skip
from tracker.evidence.bundle.record_lines import RecordLine, encode_line
from tracker.evidence.bundle.zip_writer import BundleWriter, MemberFile
from tracker.log.contract import Log
from tracker.log.declaration_records import declaration_history
from tracker.log.erasure_records import ErasureBody
from tracker.log.merkle.checkpoint import open_checkpoint
from tracker.log.merkle.cosignature import with_cosignatures
from tracker.log.merkle.note import Signer, Verifier, sign_note
from tracker.log.merkle.tree import ReadTile, inclusion_proof, root_at
from tracker.views.contract import VIEWS_VERSION, ViewsReader

CACHED_TILES = 512
WRITE_BYTES = 256 * 1024
CONCURRENT_READS = 16
NO_OWN_KEY = "The node that made it has no readable key (the operator creates one with `tracker init`)"
NO_SIGNING_KEY = "The log has no signing key (the operator creates one with `tracker init`)"
NOT_SIGNED_YET = (
    "The node that signs the log has not signed all of these records yet (request it again after the next checkpoint)"
)

MaySee = Callable[[str], bool]
"""Whether the person who asks may see a source."""


class BundleSettings(NamedTuple):
    """What building a bundle needs from the server.

    `sign` makes a checkpoint of the log as it is now; None where this node has no signing key. `keys` returns every public
    key of checkpoints, [] where nobody signs. `signer` is this node's own key, which signs bundles of the log named
    `origin`; None where it has no readable one. `hidden`: source → fields shown to nobody. `open_snapshot` opens the views
    at one moment. `gate` limits how many bundles are built at once.
    """

    sign: Callable[[], Awaitable[object]] | None
    keys: Callable[[], Awaitable[Sequence[Verifier]]]
    signer: Signer | None
    origin: str
    hidden: Mapping[str, frozenset[str]]
    open_snapshot: Callable[[], AbstractAsyncContextManager[ViewsReader]]
    gate: asyncio.Semaphore


class BundleRequest(NamedTuple):
    """One bundle to build. `positions`: pages of the positions of the session's records, ascending. Times are in µs."""

    contents: BundleContents
    positions: AsyncIterator[Sequence[int]]
    sees: MaySee
    made_at: Micros
    stuck_after: Micros


async def write_bundle(file: IO[bytes], log: Log, settings: BundleSettings, request: BundleRequest) -> Manifest:
    """Write one bundle into `file`. Raises `LogError`, `ViewsError`, `EvidenceError` (the log cannot be signed)."""
    builder = _BundleBuilder(file, log, settings, request)
    try:
        return await builder.run()
    except BaseException:
        builder.abandon()
        raise


async def timeline_json(
    contents: BundleContents, on_entries: Callable[[Sequence[msgspec.Struct]], None]
) -> AsyncIterator[bytes]:
    """timeline.json in pieces; `on_entries` gets the timeline entries. The same contents give the same bytes."""
    yield b'{"session":' + msgspec.json.encode(contents.session)
    for part in PARTS:
        yield b',\n"' + part.encode() + b'":['
        is_first = True
        async for rows in contents.parts[part]:
            for row in rows:
                yield (b"\n" if is_first else b",\n") + msgspec.json.encode(row)
                is_first = False
            if part == "timeline":
                on_entries(rows)
        yield b"]"
    yield b"}\n"


class _BundleBuilder:
    def __init__(self, file: IO[bytes], log: Log, settings: BundleSettings, request: BundleRequest) -> None:
        self._log = log
        self._settings = settings
        self._request = request
        self._writer = BundleWriter(file)
        self._positions: list[int] = []
        self._declarations: list[int] = []
        self._erasures: list[int] = []
        self._withheld: list[int] = []
        self._unbound = 0
        self._entries = 0

    async def run(self) -> Manifest:
        records = await self._write_records()
        keys = await self._settings.keys()
        size, root, note, why_unsigned = await self._checkpoint(max(self._positions, default=0), keys)
        await self._write_proofs(size, root)
        with SpooledTemporaryFile[bytes](max_size=1024 * 1024) as rows:
            await self._write_timeline(rows)
            if note is not None:
                self._writer.add(CHECKPOINT, note.encode())
                self._writer.add(KEY, "".join(f"{key}\n" for key in keys).encode())
            manifest = self._manifest(records, Tree(size=size, root=_encoded(root), why_unsigned=why_unsigned))
            await self._write_page(manifest, rows)
        manifest = msgspec.structs.replace(manifest, files=list(self._writer.members))
        content = encode_manifest(manifest)
        self._writer.add(MANIFEST, content)
        if self._settings.signer is not None:
            note = sign_note(signed_text(self._settings.origin, content), [self._settings.signer])
            self._writer.add(SIGNATURE, note.encode())
        await asyncio.to_thread(self._writer.close)
        return manifest

    def abandon(self) -> None:
        """Release the file; its content is no complete bundle."""
        with contextlib.suppress(OSError):
            self._writer.close()

    async def _write_records(self) -> int:
        erasures: set[int] = set()
        with self._writer.member(RECORDS) as file:
            buffered = _BufferedMember(file)
            # First: they name, prove and interpret the others.
            history = await declaration_history(self._log)
            self._declarations = [
                each.position for each in history.of_source.get(self._request.contents.row.source, ())
            ]
            for position in self._declarations:
                await buffered.write(_encoded_line(await self._line(position)))
            self._positions += self._declarations
            async for positions in self._request.positions:
                for start in range(0, len(positions), CONCURRENT_READS):
                    page = positions[start : start + CONCURRENT_READS]
                    for line in await asyncio.gather(*map(self._line, page)):
                        self._unbound += not covers_body(line.record)
                        if line.record.erased_by not in {None, KEY_LOST}:
                            erasures.add(line.record.erased_by or KEY_LOST)
                        await buffered.write(_encoded_line(line))
                    self._positions += page
            records = len(self._positions) - len(self._declarations)
            self._erasures = sorted(erasures)
            for position in self._erasures:
                line = await self._line(position)
                if not await self._may_see_erasure(line.record):
                    self._withheld.append(position)
                    empty = msgspec.structs.replace(line.record, proof=b"{}", body=b"")
                    line = RecordLine(empty, line.leaf._replace(salt=None), is_withheld=True)
                self._positions.append(position)
                await buffered.write(_encoded_line(line))
            await buffered.flush()
        return records

    async def _line(self, position: int) -> RecordLine:
        # If the record is erased between the two reads, read both again.
        for _ in range(3):
            record, leaf = await self._log.record(position), await self._log.leaf(position)
            if record is None or leaf is None:
                raise LogCorrupt(f"the log has no complete record at position {position}: run `tracker verify`")
            if record.erased_by is not None:
                return RecordLine(record, leaf._replace(salt=None))
            if leaf.commitment is None or leaf.salt is not None:
                return RecordLine(record, leaf)
        raise LogUnavailable(f"the data key of the record at position {position} cannot be read now: try again")

    async def _may_see_erasure(self, erasure: Record) -> bool:
        """Whether an erasure record names only records of sources that the person who asks may see."""
        for each in msgspec.json.decode(erasure.body, type=ErasureBody).erased:
            record = await self._log.record(each.position)
            if record is None or not (record.vendor == TRACKER or self._request.sees(record.source)):
                return False
        return True

    async def _checkpoint(self, last: int, keys: Sequence[Verifier]) -> tuple[int, bytes, str | None, str | None]:
        """(size, root, note, why there is no note) of the tree to prove against, which includes position `last`."""
        newest = await self._log.last_checkpoint()
        if (newest is None or newest[0] < last) and self._settings.sign is not None:
            await self._settings.sign()
            newest = await self._log.last_checkpoint()
        if newest is None or newest[0] < last or not keys:
            head = await self._log.tree_head()
            return head.size, head.root, None, NOT_SIGNED_YET if keys else NO_SIGNING_KEY
        try:
            signed = open_checkpoint(newest[1], keys)
        except (NoteMalformed, NoteUnverified) as error:
            raise EvidenceError(f"the newest checkpoint is not trusted: {error}: run `tracker verify`") from None
        if signed.size != newest[0] or signed.root != await self._root(signed.size):
            raise EvidenceError("the log does not match its newest checkpoint: run `tracker verify`")
        note = with_cosignatures(newest[1], await self._log.cosignatures(signed.size))
        return signed.size, signed.root, note, None

    async def _root(self, size: int) -> bytes | None:
        try:
            return await root_at(size, self._log.tile)
        except IndexError:
            return None

    async def _write_proofs(self, size: int, root: bytes) -> None:
        tile = _cached(self._log.tile)
        with self._writer.member(PROOFS) as file:
            buffered = _BufferedMember(file)
            await buffered.write(proofs_start(size, _encoded(root)))
            for n, position in enumerate(self._positions):
                try:
                    hashes = await inclusion_proof(position - 1, size, tile)
                except IndexError:
                    raise LogCorrupt("hashes are missing in the tree of the log: run `tracker verify`") from None
                proof = InclusionProof(position=position, hashes=[_encoded(each) for each in hashes])
                await buffered.write(proof_piece(proof, n))
                await asyncio.sleep(0)
            await buffered.write(PROOFS_END)
            await buffered.flush()

    async def _write_timeline(self, rows: IO[bytes]) -> None:
        def add_rows(entries: Sequence[msgspec.Struct]) -> None:
            self._entries += len(entries)
            rows.writelines(readme_page.page_row(msgspec.to_builtins(entry)) for entry in entries)

        with self._writer.member(TIMELINE) as file:
            buffered = _BufferedMember(file)
            async for piece in timeline_json(self._request.contents, add_rows):
                await buffered.write(piece)
            await buffered.flush()

    async def _write_page(self, manifest: Manifest, rows: IO[bytes]) -> None:
        rows.seek(0)
        with self._writer.member(README) as file:
            file.write(readme_page.page_top(manifest))
            while piece := await asyncio.to_thread(rows.read, WRITE_BYTES):
                await asyncio.to_thread(file.write, piece)
            file.write(readme_page.END.encode())

    def _manifest(self, records: int, tree: Tree) -> Manifest:
        row = self._request.contents.row
        end = inferred_end(row)
        return Manifest(
            format=FORMAT,
            made_at=format_micros(self._request.made_at),
            tracker=WriterVersion(version=tracker_version(), reading=VIEWS_VERSION, page=readme_page.PAGE_VERSION),
            session=SessionIdentity(id=row.id, source=row.source, vendor=row.vendor),
            records=records,
            declarations=len(self._declarations),
            unbound=self._unbound,
            erasures=len(self._erasures),
            withheld=self._withheld,
            entries=self._entries,
            tree=tree,
            reading=ReadingSettings(
                hidden=sorted(self._settings.hidden.get(row.source, ())),
                stuck_after_ms=self._request.stuck_after // 1000,
                inferred_end=end,
            ),
            files=list(self._writer.members),
            why_unsigned=None if self._settings.signer is not None else NO_OWN_KEY,
        )


class _BufferedMember:
    """Collects small pieces and writes them together; large writes are compressed in a thread."""

    def __init__(self, file: MemberFile) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._size = 0

    async def write(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        joined, self._pieces, self._size = b"".join(self._pieces), [], 0
        if len(joined) > SMALL_BYTES:
            await asyncio.to_thread(self._file.write, joined)
        elif joined:
            self._file.write(joined)


def _cached(tile: ReadTile) -> ReadTile:
    """Read each of the last few tiles once: the proofs of one session share most of theirs."""
    known: OrderedDict[tuple[int, int], Sequence[bytes]] = OrderedDict()

    async def cached(level: int, n: int) -> Sequence[bytes]:
        if (level, n) not in known:
            known[level, n] = await tile(level, n)
            if len(known) > CACHED_TILES:
                known.popitem(last=False)
        known.move_to_end((level, n))
        return known[level, n]

    return cached


def _encoded_line(line: RecordLine) -> bytes:
    found = encode_line(line)
    if len(found) > MAX_LINE_BYTES:
        raise EvidenceError(f"the record at position {line.record.position} is too large for a bundle")
    return found


def _encoded(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
