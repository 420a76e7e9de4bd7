"""Checkpoints, the key they are signed with, and proofs against them.

Nothing is signed here: a request never makes a checkpoint. Hashes are base64 of 32 bytes; how a proof is checked, in any
language, is in docs/explanation/evidence.md.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from tracker.api.route import ApiRequest, TextAnswer, Route
from tracker.api.parameters import integer
from tracker.errors import LogCorrupt, NotFound, NoteMalformed, ParameterInvalid
from tracker.log.merkle.cosignature import with_cosignatures
from tracker.log.merkle.tree import consistency_proof, inclusion_proof, root_at
from tracker.log.contract import Log


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True):
    """Proves that the record at `position` is leaf `leaf_index` (from 0) of the tree of the first `size` records."""

    position: int
    leaf_index: int
    leaf_hash: str
    size: int
    root: str
    hashes: list[str]


class ConsistencyProof(msgspec.Struct, frozen=True, kw_only=True):
    """Proves that the tree of the first `second` records continues that of the first `first`."""

    first: int
    second: int
    first_root: str
    second_root: str
    hashes: list[str]


async def prove_inclusion(log: Log, position: int, size: int | None) -> InclusionProof:
    """The proof of one record in the tree of `size` records, or in that of the newest checkpoint.

    Raises `NotFound` (no such record or tree), `ParameterInvalid` (the record is not in that tree), `LogError`.
    """
    head = await log.head()
    if not 1 <= position <= head:
        raise NotFound(f"the log has no record at position {position}: it ends at {head}")
    size = await _size_or_newest(log, size, head)
    if position > size:
        raise ParameterInvalid(
            "size", f"the tree of {size} records ends before position {position}: give a larger size, up to {head}"
        )
    leaves = await log.tile(0, (position - 1) // 256)
    try:
        return InclusionProof(
            position=position,
            leaf_index=position - 1,
            leaf_hash=_base64(leaves[(position - 1) % 256]),
            size=size,
            root=_base64(await root_at(size, log.tile)),
            hashes=_all_encoded(await inclusion_proof(position - 1, size, log.tile)),
        )
    except IndexError:
        raise _damaged_tree() from None


async def prove_consistency(log: Log, first: int, second: int | None) -> ConsistencyProof:
    """The proof between two trees. `second` None: that of the newest checkpoint.

    Raises `NotFound`, `ParameterInvalid` (the first is larger), `LogError`.
    """
    head = await log.head()
    second = await _size_or_newest(log, second, head)
    if first > second:
        raise ParameterInvalid("first", f"is larger than second, {second}: put the smaller tree first")
    try:
        return ConsistencyProof(
            first=first,
            second=second,
            first_root=_base64(await root_at(first, log.tile)),
            second_root=_base64(await root_at(second, log.tile)),
            hashes=_all_encoded(await consistency_proof(first, second, log.tile)),
        )
    except IndexError:
        raise _damaged_tree() from None


async def find_checkpoint(request: ApiRequest) -> TextAnswer:
    """`GET /v1/log/checkpoint`: the newest, or the one of `?size=`."""
    log, size = request.context.log, request.query["size"]
    if size is None:
        newest = await log.last_checkpoint()
        if newest is None:
            raise NotFound(_no_checkpoint_reason(request.context.log_key))
        return await _cosigned(log, *newest)
    for found, note in await log.checkpoints(after=size - 1, limit=1):
        if found == size:
            return await _cosigned(log, found, note)
    raise NotFound(f"there is no checkpoint of {size} records: leave `size` out for the newest")


async def _cosigned(log: Log, size: int, note: str) -> TextAnswer:
    """The note with the cosignatures of other nodes."""
    try:
        return TextAnswer(with_cosignatures(note, await log.cosignatures(size)))
    except NoteMalformed:  # the cosignatures are malformed; the log's own note is valid without them
        return TextAnswer(note)


async def find_key(request: ApiRequest) -> TextAnswer:
    """`GET /v1/log/key`."""
    if request.context.log_key is None:
        raise NotFound(_NO_KEY)
    return TextAnswer(request.context.log_key + "\n")


async def find_inclusion(request: ApiRequest) -> InclusionProof:
    """`GET /v1/log/proof/inclusion`."""
    position: int = request.query["position"]
    if request.reader.sources is not None:
        record = await request.context.log.record(position)
        if record is None or not request.reader.sees(record.source):
            raise NotFound(f"the log has no record at position {position}")
    return await prove_inclusion(request.context.log, position, request.query["size"])


async def find_consistency(request: ApiRequest) -> ConsistencyProof:
    """`GET /v1/log/proof/consistency`."""
    return await prove_consistency(request.context.log, request.query["first"], request.query["second"])


async def _size_or_newest(log: Log, size: int | None, head: int) -> int:
    if size is not None:
        if size > head:
            raise NotFound(f"the log has no tree of {size} records yet: it has {head}")
        return size
    newest = await log.last_checkpoint()
    if newest is None:
        raise NotFound(f"there is no checkpoint yet: give a size, up to {head}")
    return newest[0]


def _no_checkpoint_reason(log_key: str | None) -> str:
    if log_key is None:
        return _NO_KEY
    return "there is no checkpoint yet: the server makes one on its schedule, `tracker checkpoint` makes one now"


def _damaged_tree() -> LogCorrupt:
    return LogCorrupt("hashes are missing from the log's tree: run `tracker verify`")


def _base64(found: bytes) -> str:
    return base64.b64encode(found).decode()


def _all_encoded(found: Sequence[bytes]) -> list[str]:
    return [_base64(each) for each in found]


_NO_KEY = (
    "this log is not signed: there is no key at `evidence.key_file`. The operator makes one with `tracker init` and "
    "starts the server again"
)
_SIZE = integer("size", "Size of the tree, in records. Default: that of the newest checkpoint.", minimum=1)
_POSITION = msgspec.structs.replace(integer("position", "The position of the record.", minimum=1), is_required=True)
_FIRST = msgspec.structs.replace(integer("first", "Size of the smaller tree, in records.", minimum=1), is_required=True)
_SECOND = integer("second", "Size of the larger tree, in records. Default: that of the newest checkpoint.", minimum=1)

ROUTES = (
    Route(path="/v1/log/checkpoint", name="findCheckpoint",
          description="A signed checkpoint of the log (c2sp.org/tlog-checkpoint): the newest, or that of `size`.",
          scope="read:sessions", parameters=(_SIZE,), answer=TextAnswer, handler=find_checkpoint, can_be_missing=True),
    Route(path="/v1/log/key", name="findLogKey", description="The public key of checkpoints, as a verifier key (c2sp.org/signed-note).",
          scope="read:sessions", parameters=(), answer=TextAnswer, handler=find_key, can_be_missing=True),
    Route(path="/v1/log/proof/inclusion", name="findInclusionProof",
          description="Proof that a record is in the log, against a checkpoint (RFC 9162, 2.1.3).",
          scope="read:sessions", parameters=(_POSITION, _SIZE), answer=InclusionProof, handler=find_inclusion, can_be_missing=True),
    Route(path="/v1/log/proof/consistency", name="findConsistencyProof",
          description="Proof that the log at one size continues the log at a smaller size (RFC 9162, 2.1.4).",
          scope="read:sessions", parameters=(_FIRST, _SECOND), answer=ConsistencyProof, handler=find_consistency,
          can_be_missing=True),
)  # fmt: skip
