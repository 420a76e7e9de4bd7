"""A kept proof checked again: the delivery as its record keeps it, for `Source.verify` to look at once more.

What a proof keeps is written by each vendor's file; here stands only how its two schemes came over the wire.
"""

from __future__ import annotations

import json

from tracker.domain.deliveries import Delivery, Record


def stored_delivery(record: Record) -> Delivery | None:
    """The delivery a record was made from, with the headers that proved it.

    None where the proof is the operator's word (an import) or where only the key that matched was kept, because what
    the sender shows is a secret that could be used again (OpenVidu's header, StreamRec's token).
    """
    headers = _headers(record.proof)
    if headers is None:
        return None
    return Delivery(source=record.source, body=record.body, received_at=record.received_at, headers=headers)


def _headers(proof: bytes) -> dict[str, str] | None:
    try:
        kept: object = json.loads(proof)
    except ValueError:
        return None
    match kept:
        case {"scheme": "jwt", "jwt": str(token)}:
            return {"authorization": token}
        case {"scheme": "hmac-sha256", "timestamp": str(stamp), "signature": str(signature)}:
            return {"x-timestamp": stamp, "x-signature": signature}
        case _:
            return None
