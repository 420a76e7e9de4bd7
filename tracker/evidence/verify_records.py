"""What the vendors said, checked again: is every record called and keyed as its body says, does its proof hold.

`proofs` counts records by what became of their proof: `checked` (verified again with the configured secret), `key unknown`
(its key is no longer configured), `source unknown` (the source is no longer configured), `only the key is kept`, `import`
(the operator's word), `wrong`, `erased` (there is nothing left to check).
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Mapping

import msgspec

from tracker.domain.deliveries import LOST, OURS, Record
from tracker.log.erasure_records import EVENT, ErasureBody
from tracker.errors import DeliveryRejected, KeyUnknown, LogCorrupt, LogUnavailable
from tracker.log.contract import Log
from tracker.sources import registry
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.replay_proof import stored_delivery
from tracker.evidence.verify_log import MAX_FAULTS, Fault, Progress, Verification

KEYED_HASH_PREFIX = "hmac:"
ERASURES_PER_READ = 10_000


async def check_proofs(
    log: Log,
    configured: Mapping[str, Source],
    found: Verification,
    *,
    progress: Progress | None = None,
    max_faults: int = MAX_FAULTS,
) -> None:
    """Go over the bodies of the whole log; what is wrong and how proofs fared is added to `found`."""
    proofs: Counter[str] = Counter()
    readers: dict[tuple[str, str], Source] = {}
    head, last = await log.head(), 0
    try:
        async for records in log.read(0):
            for record in records:
                found.faults += [Fault(record.position, what) for what in naming_faults(record, readers)]
                if record.erased_by == LOST:
                    _add(found, record.position, "its key is gone, and no record says that it was erased")
                outcome, fault = recheck_proof(record, configured)
                proofs[outcome] += 1
                if fault is not None:
                    found.faults.append(Fault(record.position, fault))
            last = records[-1].position
            if progress is not None:
                progress(last, max(head, last))
            if len(found.faults) >= max_faults:
                found.is_cut_short = True
                break
            await asyncio.sleep(0)
    except LogCorrupt as error:
        found.faults.append(Fault(last + 1, str(error)))
        found.is_cut_short = True
    found.proofs = dict(sorted(proofs.items()))


async def check_erasures(log: Log, found: Verification) -> None:
    """Compare what is read as erased with what the erasures say, both ways; what differs is added to `found`.

    Without the master keys erasures cannot be read where they are sealed, and nothing is compared.
    """
    ours = await log.positions_from_source(OURS)
    head = await log.head()
    if not ours and not await log.erased_positions(0, 1):
        return
    says = array("q", bytes(8 * (head + 1)))
    damaged: set[int] = set()
    try:
        for by in ours:
            try:
                record = await log.record(by)
            except LogCorrupt as error:
                _add(found, by, str(error))
                damaged.add(by)
                continue
            # Ascending: of an erasure that was erased in its turn, the later one says the same.
            for position in () if record is None else _told_by(record):
                if 0 < position < by:
                    says[position] = by
        after, rows = 0, await log.erased_positions(0, ERASURES_PER_READ)
        while rows:
            for position, by in rows:
                if by > head and by <= await log.head():
                    if 0 < position <= head:
                        says[position] = 0  # erased while we look
                elif by > head:
                    _add(found, position, f"it is read as erased by the record at {by}, which is not in the log")
                elif by in damaged and 0 < position <= head:
                    says[position] = 0
                elif not 0 < position <= head or says[position] != by:
                    _add(found, position, f"it is read as erased by the record at {by}, which does not say so")
                else:
                    says[position] = 0
            after = rows[-1][0]
            rows = await log.erased_positions(after, ERASURES_PER_READ)
    except LogUnavailable:
        return
    for position in (n for n in range(1, head + 1) if says[n]):
        _add(found, position, f"the record at {says[position]} says that it was erased, but it is not read so")


def _add(found: Verification, position: int, what: str) -> None:
    if len(found.faults) < MAX_FAULTS:
        found.faults.append(Fault(position, what))


def _told_by(record: Record) -> set[int]:
    """The positions that an erasure record names; none when it is no such record."""
    if (record.source, record.event) != (OURS, EVENT):
        return set()
    try:
        return {each.position for each in msgspec.json.decode(record.body, type=ErasureBody).erased}
    except msgspec.DecodeError:
        return set()


def naming_faults(record: Record, readers: dict[tuple[str, str], Source]) -> list[str]:
    """What of a record does not follow from its body. `readers` are kept from record to record."""
    if record.vendor not in registry.VENDORS or record.erased_by is not None:
        return []
    of = record.source, record.vendor
    reader = readers.get(of)
    if reader is None:
        reader = readers[of] = registry.build(SourceSettings(name=record.source, vendor=record.vendor))
    named = reader.verify_trusted(record.body, received_at=record.received_at, proof={})
    faults: list[str] = []
    if named.event != record.event:
        faults.append(f"its body is a {named.event!r}, the record says {record.event!r}")
    # A sealed log knows deliveries by a keyed hash; there the leaf alone ties the key to the body.
    if named.dedupe_key != record.dedupe_key and not record.dedupe_key.startswith(KEYED_HASH_PREFIX):
        faults.append("its dedupe key does not follow from its body: one of them was changed")
    return faults


def recheck_proof(record: Record, configured: Mapping[str, Source]) -> tuple[str, str | None]:
    """What became of a record's proof, and what is wrong with it."""
    if record.erased_by is not None:
        return "erased", None
    if record.origin == "import":
        return "import", None
    source = configured.get(record.source)
    if source is None or source.vendor != record.vendor:
        return "source unknown", None
    delivery = stored_delivery(record)
    if delivery is None:
        return "only the key is kept", None
    try:
        source.verify(delivery)
    except KeyUnknown:
        return "key unknown", None
    except DeliveryRejected as error:
        return "wrong", f"its proof does not fit any more: {error}"
    return "checked", None
