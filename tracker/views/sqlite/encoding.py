"""How rows are encoded in a views file: no field is stored twice, and the usual value of a field costs one byte.

    a row            its columns (what queries search or order by) and `doc`: a MessagePack array of the other fields
    an entry         its columns and `rest`: when it was received (relative to `at`), its actor, its key, its detail
    session, source  a number in the table `names`; a kind is its index in `KINDS`
    a folded state   compressed by zstd, as keys and names repeat; uncompressed while the session is open and saved often

Unusual kinds, subjects and keys are stored as they are: nothing is refused or lost.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import product
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast, get_args

import msgspec
import zstandard

from tracker.domain.facts import KINDS, Clock, EventCopy, Provenance
from tracker.errors import TrackerError, ViewsDamaged
from tracker.domain.rows import ConnectionRow, End, EntryRow, ParticipantRow, RecordingRow, SessionRow, StreamRow, SupervisorSessionRow  # fmt: skip

_NUMBER_OF_KIND: dict[str, int] = {kind: number for number, kind in enumerate(KINDS)}

_SUBJECTS = (
    "session", "participant", "stream", "subscription", "recording", "broadcast", "ingress", "transcription", "agent_job",
    "supervisor_session", "artifact", "node", "cluster", "source",
)  # fmt: skip
ENTRY_SHAPES = tuple(product(_SUBJECTS, get_args(Provenance), get_args(Clock)))
"""(subject type, provenance, clock) by number. Like `KINDS`, it is part of the stamp of a views file."""

_NUMBER_OF_SHAPE: dict[tuple[str, str, str], int] = {shape: number for number, shape in enumerate(ENTRY_SHAPES)}

_KEY_BYTES = 32
_FASTEST = 1

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


_END_FIELDS = ("reason", "vendor_reason", "provenance", "not_after")

Row = TypeVar("Row", bound=msgspec.Struct)


@contextmanager
def decoding() -> Generator[None]:
    """Turn any failure to decode stored rows into `ViewsDamaged`: Tracker itself wrote them."""
    try:
        yield
    except (sqlite3.Error, TrackerError):
        raise
    except Exception as error:
        reason = f"a stored row cannot be read: {type(error).__name__}"
        raise ViewsDamaged(f"the views are damaged ({reason}): run `tracker rebuild`") from error


class RowCodec(Generic[Row]):
    """Encodes the fields of a row type that are not in `columns` (field names) as one BLOB."""

    def __init__(self, row: type[Row], columns: tuple[str, ...]) -> None:
        self._row = row
        self.columns = columns
        names = [field.name for field in msgspec.structs.fields(row)]
        self._names = tuple(name for name in names if name not in columns)
        self._values: Callable[[Any], tuple[Any, ...]] = attrgetter(*self._names)
        ends = {field.name for field in msgspec.structs.fields(row) if field.type == End | None}
        self._ends = tuple(place for place, name in enumerate(self._names) if name in ends)

    def encode(self, row: Row) -> bytes:
        """The BLOB of a row."""
        values: Sequence[Any] = self._values(row)
        if self._ends:
            values = list(values)
            for place in self._ends:
                end = values[place]
                if end is not None:
                    values[place] = (end.reason, end.vendor_reason, end.provenance, end.not_after)
        return _pack(values)

    def decode(self, doc: bytes, columns: Sequence[Any]) -> Row:
        """The row of a BLOB. `columns` are the values of the other fields, in their order."""
        values = cast("list[Any]", _unpack(doc))
        for place in self._ends:
            end = values[place]
            if end is not None:
                values[place] = dict(zip(_END_FIELDS, end, strict=True))
        fields = dict(zip(self._names, values, strict=True))
        fields.update(zip(self.columns, columns, strict=True))
        return msgspec.convert(fields, self._row)


SESSION_COLUMNS = (
    "begins_at", "id", "source", "vendor", "room_id", "room_name", "state", "duration_ms", "last_event_at", "participants",
    "participant_ms", "recordings", "supervisors",
)  # fmt: skip
sessions = RowCodec(SessionRow, SESSION_COLUMNS)
participants = RowCodec(ParticipantRow, ("session_id", "id", "identity", "name"))
connections = RowCodec(ConnectionRow, ("session_id", "id"))
streams = RowCodec(StreamRow, ("session_id", "id"))
recordings = RowCodec(RecordingRow, ("session_id", "id", "status"))
supervisor_sessions = RowCodec(SupervisorSessionRow, ("session_id", "id", "supervisor_client", "agent_client"))
DOCS = (sessions, participants, connections, streams, recordings, supervisor_sessions)


def number_of_kind(kind: str) -> int | str:
    """The number of a kind; an unknown kind stays text."""
    return _NUMBER_OF_KIND.get(kind, kind)


def encode_entry(row: EntryRow) -> bytes:
    """The fields of an entry that have no column, as an array of five.

    The time from `at` to its receipt (µs) · an index in `ENTRY_SHAPES` · the actor, or True if it is the subject ·
    the key, as bytes if it is 64 hexadecimal digits · the detail.
    """
    shape = (row.subject_type, row.provenance, row.clock)
    return _pack((
        None if row.received_at is None else row.received_at - row.at,
        _NUMBER_OF_SHAPE.get(shape, shape),
        True if row.actor is not None and row.actor == row.subject_id else row.actor,
        _short(row.dedupe_key),
        row.detail,
    ))  # fmt: skip


def encode_copy(copy: EventCopy | None) -> tuple[int | None, int | None, int | None]:
    """The columns that say which event an entry is a copy of. With `tie`, 64 bits of its key are compared."""
    return (None, None, None) if copy is None else (int(copy.key[:8], 16), copy.text, copy.damage)


def _short(key: str) -> bytes | str:
    if len(key) == 2 * _KEY_BYTES:
        try:
            short = bytes.fromhex(key)
        except ValueError:
            return key
        # Upper case and spaces would be lost.
        return short if short.hex() == key else key
    return key


def decode_entry(row: Sequence[Any]) -> EntryRow:
    """The entry in columns (position, n, session_id, at, kind, subject_id, source, hidden, rest, …)."""
    position, n, session_id, at, kind, subject_id, source, hidden, packed = row[:9]
    after, shape, actor, key, detail = cast("list[Any]", _unpack(packed))
    subject_type, provenance, clock = ENTRY_SHAPES[shape] if isinstance(shape, int) else shape
    return EntryRow(
        id=f"{position}-{n}", session_id=session_id, position=position, n=n, at=at,
        received_at=None if after is None else at + after, kind=KINDS[kind] if isinstance(kind, int) else kind,
        subject_type=subject_type, subject_id=subject_id, actor=subject_id if actor is True else actor, detail=detail,
        source=source, provenance=provenance, clock=clock, dedupe_key=key.hex() if isinstance(key, bytes) else key,
        hidden=bool(hidden),
    )  # fmt: skip


class _Zstd(threading.local):
    """One compressor for each thread: several threads cannot share one."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_FASTEST).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def compress_state(state: bytes, *, is_open: bool) -> bytes:
    """A folded state. Once its session is over it is compressed, to a quarter of its size."""
    return state if is_open else _zstd.compress(state)


def decompress_state(packed: bytes) -> bytes:
    """The inverse of `compress_state`."""
    # A state is a MessagePack array, which never begins with zstd's magic number.
    return _zstd.decompress(packed) if packed[:4] == zstandard.FRAME_HEADER else packed
