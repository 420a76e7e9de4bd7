"""Raw records as the log stores them, and the exact bytes received.

LIMIT: a list limited to sources reads the log in order and stops after `MAX_SCANNED` records. The page is then short, and
`next` continues from there.
"""

from __future__ import annotations

import re

import msgspec

from tracker.views.answers import Page, RawRecord, Session
from tracker.api.route import ApiRequest, BytesAnswer, Route
from tracker.api.parameters import MAX_INTEGER, PAGING, SOURCE, integer
from tracker.api.sessions import requested_session
from tracker.domain.deliveries import Record
from tracker.errors import Erased, NotFound, ParameterInvalid
from tracker.views.presenters import present

MAX_SCANNED = 20_000
CHUNK_RECORDS = 500
MAX_LISTED_BODY = 64 * 1024
"""Longest body in a list, in bytes. Longer ones are at their `body_url`."""


async def find_session_records(request: ApiRequest) -> Page[RawRecord]:
    """`GET /v1/sessions/{id}/records`: the records behind a session, by position."""
    session = await requested_session(request)
    limit: int = request.query["limit"]
    after = _after(request)
    positions = await request.context.views.session_positions(session.id, limit=limit + 1, after=after)
    items: list[RawRecord] = []
    for position in positions[:limit]:
        record = await request.context.log.record(position)
        if record is not None:
            items.append(await _present_record(request, record, max_body_bytes=MAX_LISTED_BODY))
    return Page(items, str(positions[limit - 1]) if len(positions) > limit else None)


async def find_records(request: ApiRequest) -> Page[RawRecord]:
    """`GET /v1/records`: the log, by position."""
    limit: int = request.query["limit"]
    after, scanned = _after(request), 0
    narrowed = request.sources
    found: list[Record] = []
    head = await request.context.log.head()
    while len(found) <= limit and after < head and scanned < MAX_SCANNED:
        begun = after
        async for records in request.context.log.read(after, limit=limit + 1 if narrowed is None else CHUNK_RECORDS):
            # Keep no more than one page: bodies may be large.
            fitting = [record for record in records if narrowed is None or record.source in narrowed]
            found += fitting[: limit + 1 - len(found)]
            after, scanned = records[-1].position, scanned + len(records)
        if after == begun:
            break
    items = [await _present_record(request, record, max_body_bytes=MAX_LISTED_BODY) for record in found[:limit]]
    if len(found) > limit:
        return Page(items, str(found[limit - 1].position))
    return Page(items, str(after) if after < head else None)


async def find_record(request: ApiRequest) -> RawRecord:
    """`GET /v1/records/{position}`."""
    return await _present_record(request, await _requested_record(request), max_body_bytes=None)


async def find_body(request: ApiRequest) -> BytesAnswer:
    """`GET /v1/records/{position}/body`."""
    record = await _requested_record(request)
    if record.erased_by is not None:
        raise Erased(f"the body of record {record.position} was erased, as recorded at position {record.erased_by}")
    return BytesAnswer(record.body, f"record-{record.position}.bin")


async def _requested_record(request: ApiRequest) -> Record:
    position = request.path["position"]
    known = re.fullmatch(r"[0-9]{1,18}", position)
    record = await request.context.log.record(int(position)) if known else None
    if record is None or not request.reader.sees(record.source):
        raise NotFound(f"the log has no record at position {position[:64]!r}")
    return record


async def _present_record(request: ApiRequest, record: Record, *, max_body_bytes: int | None) -> RawRecord:
    return present(
        RawRecord,
        record,
        proof=_proof_of(record),
        size_bytes=len(record.body),
        sessions=await request.context.views.record_sessions(record.position),
        body_url=f"/v1/records/{record.position}/body",
        body=_text_of(record.body) if _is_shown(record, max_body_bytes) else None,
    )


def _is_shown(record: Record, max_body_bytes: int | None) -> bool:
    return record.erased_by is None and (max_body_bytes is None or len(record.body) <= max_body_bytes)


def _proof_of(record: Record) -> object:
    try:
        return msgspec.json.decode(record.proof)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _text_of(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _after(request: ApiRequest) -> int:
    """The position after which the page starts: from the cursor, else from `?after=`."""
    cursor: str | None = request.query["cursor"]
    if cursor is None:
        return request.query.get("after") or 0
    if not re.fullmatch(r"[0-9]{1,19}", cursor) or int(cursor) > MAX_INTEGER:
        raise ParameterInvalid("cursor", "is not a `next` of this list; leave it out to start from the beginning")
    return int(cursor)


_AFTER = integer("after", "Only records after this position.")
_WHICH = "Needs the scope read:records: bodies contain personal data."

ROUTES = (
    Route(path="/v1/sessions/{id}/records", name="findSessionRecords",
          description=f"The raw records behind a session, by position. {_WHICH}", scope="read:records", parameters=PAGING,
          answer=Page[RawRecord], handler=find_session_records, choices=Page[Session], can_be_missing=True),
    Route(path="/v1/records", name="findRecords", description=f"The log, by position. {_WHICH}", scope="read:records",
          parameters=(_AFTER, SOURCE, *PAGING),
          answer=Page[RawRecord], handler=find_records),
    Route(path="/v1/records/{position}", name="findRecord", description=f"One raw record. {_WHICH}", scope="read:records",
          parameters=(), answer=RawRecord, handler=find_record, can_be_missing=True),
    Route(path="/v1/records/{position}/body", name="findRecordBody",
          description=f"The exact bytes that were received. {_WHICH}", scope="read:records", parameters=(), answer=BytesAnswer,
          handler=find_body, can_be_missing=True),
)  # fmt: skip
