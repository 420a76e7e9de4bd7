"""Checks records against what their vendors sent: event name and dedupe key, the vendor's proof, and erasures.

`Verification.proofs` counts records by the outcome of checking their proof: `checked` (verified again with the
configured secret), `key unknown` (its key is no longer configured), `source unknown` (the source is no longer
configured), `only the key is kept`, `import` (the operator added it, there is no proof), `wrong`, `erased` (nothing is
left to check).
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter

import msgspec

from tracker.domain.deliveries import KEY_LOST, TRACKER, Record
from tracker.log.erasure_records import EVENT, ErasureBody
from tracker.errors import DeliveryRejected, KeyUnknown, LogCorrupt, LogUnavailable
from tracker.log.contract import Log
from tracker.sources import registry
from tracker.sources.json_reading import read_proof
from tracker.evidence.sources_in_force import SourcesInForce
from tracker.evidence.verify_log import MAX_FAULTS, Fault, Progress, Verification

KEYED_HASH_PREFIX = "hmac:"
"""Dedupe keys of an encrypted log begin with this."""
ERASURES_PER_READ = 10_000


async def check_proofs(
    log: Log,
    sources: SourcesInForce,
    found: Verification,
    *,
    progress: Progress | None = None,
    max_faults: int = MAX_FAULTS,
) -> None:
    """Read the bodies of the whole log; add faults and the outcomes of the proofs to `found`."""
    proofs: Counter[str] = Counter()
    head, last = await log.head(), 0
    try:
        async for records in log.read(0):
            for record in records:
                found.faults += [Fault(record.position, what) for what in naming_faults(record, sources)]
                if record.erased_by == KEY_LOST:
                    _add(found, record.position, "its data key is missing, and no record says that it was erased")
                outcome, fault = recheck_proof(record, sources)
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
    """Compare the records the log treats as erased with those the erasure records name; add differences to `found`.

    Without the master keys, encrypted erasure records cannot be read, and nothing is compared.
    """
    erasure_positions = await log.positions_from_source(TRACKER)
    head = await log.head()
    if not erasure_positions and not await log.erased_positions(0, 1):
        return
    # Position → the erasure record that names it, 0 once the log's own list confirms that.
    erased_by = array("q", bytes(8 * (head + 1)))
    damaged: set[int] = set()
    try:
        for by in erasure_positions:
            try:
                record = await log.record(by)
            except LogCorrupt as error:
                _add(found, by, str(error))
                damaged.add(by)
                continue
            # Ascending: if an erasure record was erased, the later erasure names its positions too.
            for position in () if record is None else _erased_positions(record):
                if 0 < position < by:
                    erased_by[position] = by
        after, rows = 0, await log.erased_positions(0, ERASURES_PER_READ)
        while rows:
            for position, by in rows:
                if by > head and by <= await log.head():
                    if 0 < position <= head:
                        erased_by[position] = 0  # erased while this runs
                elif by > head:
                    _add(found, position, f"the log treats it as erased by the record at {by}, which does not exist")
                elif by in damaged and 0 < position <= head:
                    erased_by[position] = 0
                elif not 0 < position <= head or erased_by[position] != by:
                    _add(found, position, f"the log treats it as erased by the record at {by}, which does not name it")
                else:
                    erased_by[position] = 0
            after = rows[-1][0]
            rows = await log.erased_positions(after, ERASURES_PER_READ)
    except LogUnavailable:
        return
    for position in (n for n in range(1, head + 1) if erased_by[n]):
        _add(found, position, f"the record at {erased_by[position]} erased it, but the log does not treat it as erased")


def _add(found: Verification, position: int, what: str) -> None:
    if len(found.faults) < MAX_FAULTS:
        found.faults.append(Fault(position, what))


def _erased_positions(record: Record) -> set[int]:
    """The positions that an erasure record names; empty for other records."""
    if (record.source, record.event) != (TRACKER, EVENT):
        return set()
    try:
        return {each.position for each in msgspec.json.decode(record.body, type=ErasureBody).erased}
    except msgspec.DecodeError:
        return set()


def naming_faults(record: Record, sources: SourcesInForce) -> list[str]:
    """Faults in the event name and dedupe key, which follow from the body (and from the signed headers in its proof)."""
    if record.vendor not in registry.VENDORS or record.erased_by is not None:
        return []
    source = sources.naming(record)
    if source is None:
        return ["no declaration of its source is in force at its position: one was removed"]
    derived = source.verify_trusted(record.body, received_at=record.received_at, proof=read_proof(record))
    faults: list[str] = []
    if derived.event != record.event:
        faults.append(f"its body is a {derived.event!r}, the record says {record.event!r}")
    # An encrypted log has keyed hashes as dedupe keys; there only the leaf ties the key to the body.
    is_hashed = record.dedupe_key.startswith(KEYED_HASH_PREFIX)
    if derived.dedupe_key != record.dedupe_key and not is_hashed and not _is_former_key(record):
        faults.append("its dedupe key does not follow from its body: one of them was changed")
    return faults


def _is_former_key(record: Record) -> bool:
    return record.dedupe_key in registry.VENDORS[record.vendor].former_keys(record.body)


def recheck_proof(record: Record, sources: SourcesInForce) -> tuple[str, str | None]:
    """The outcome of checking a record's proof again, and the fault if the proof is wrong."""
    if record.erased_by is not None:
        return "erased", None
    if record.origin == "import":
        return "import", None
    source = sources.proving(record)
    if source is None:
        return "source unknown", None
    delivery = registry.stored_delivery(record)
    if delivery is None:
        return "only the key is kept", None
    try:
        source.verify(delivery)
    except KeyUnknown:
        return "key unknown", None
    except DeliveryRejected as error:
        return "wrong", f"its proof does not match its body any more: {error}"
    return "checked", None
