"""Everything that can go wrong, named by who has to act.

    TrackerError
    ├── DeliveryRejected      the sender acts        → 401 / 404 / 413
    │   ├── SignatureMissing      no proof came with the delivery
    │   ├── SignatureMismatch     a proof came and does not fit the bytes
    │   ├── SignatureStale        a proof came, but from the past or the future
    │   ├── KeyUnknown            the proof names a key that is not configured
    │   ├── SourceUnknown         no source of that name is configured
    │   └── BodyTooLarge          more bytes than max_body_bytes
    ├── LogError              the operator acts      → 503
    │   ├── LogMissing            there is no log at that path (`tracker init`)
    │   ├── LogUnavailable        the store cannot take it now (disk full, locked, gone)
    │   ├── LogBusy               the queue is over its bound
    │   ├── NodeBehind            this node is too far behind the others of its cluster
    │   ├── NodeOutdated          the stream has frames of a newer Tracker: upgrade this node
    │   ├── NodeDiverged          this node's records are not those that its cluster signed
    │   └── LogCorrupt            what was read cannot be a log of ours
    ├── ViewsError            rebuild
    │   ├── ViewsMissing          there are no views yet
    │   ├── ViewsOutdated         written by another version of Tracker
    │   ├── ViewsUnavailable      the store cannot take or give rows now     → 503
    │   └── ViewsBehind           the asked position is not projected yet   → 504
    ├── QueryError            the reader acts
    │   ├── ParameterInvalid      a parameter is unknown or its value is bad → 400
    │   ├── NotFound              nothing has that id                        → 404
    │   ├── Erased                its bytes were erased; what is left is shown  → 410
    │   ├── Ambiguous             several sessions have that id              → 300
    │   ├── TokenInvalid          no token, or one that does not verify      → 401
    │   └── ScopeMissing          a good token without the needed scope      → 403
    ├── EvidenceError         whoever relies on the log acts
    │   ├── NoteMalformed         this is no signed note, no checkpoint or no key
    │   ├── NoteUnverified        no known key signed it, or its signature is wrong
    │   ├── HistoryChanged        the log does not continue what was signed: nothing is signed
    │   ├── CheckpointUnwritten   the file of checkpoints cannot be read or written
    │   └── BundleUnreadable      this file is no evidence bundle, or one that was damaged
    └── ConfigInvalid         the operator acts, before start → exit 2

Leaves are facts without a suffix; branches say who acts. A message says what to do next and never holds a secret.
"""

from __future__ import annotations

from typing import Literal


class TrackerError(Exception):
    """The root: catch this and nothing of ours escapes."""


class DeliveryRejected(TrackerError):
    """The sender (or whoever configured it) has to act; nothing was recorded."""


class SignatureMissing(DeliveryRejected):
    """The delivery carries no proof at all."""


class SignatureMismatch(DeliveryRejected):
    """The proof does not fit these bytes."""


class SignatureStale(DeliveryRejected):
    """The proof is too old, or from the future."""


class KeyUnknown(DeliveryRejected):
    """The proof names a key that is not configured for this source."""


class SourceUnknown(DeliveryRejected):
    """No source of that name is configured."""


class BodyTooLarge(DeliveryRejected):
    """The body exceeds `server.max_body_bytes`."""


class LogError(TrackerError):
    """The operator has to act; nothing was acknowledged."""


class LogMissing(LogError):
    """There is no log at that path; `tracker init` makes one on purpose."""


class LogUnavailable(LogError):
    """The store cannot take or give records now. `reason` is set where the caller can act on it."""

    def __init__(self, message: str = "", reason: Literal["locked", "no_master_key"] | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class LogBusy(LogError):
    """The append queue is over its bound; try again shortly."""


class NodeBehind(LogError):
    """This node is too far behind the others of its cluster to take deliveries or to answer readers."""


class NodeOutdated(LogError):
    """The stream has what only a newer Tracker can read; this node stays where it is until it is upgraded."""


class NodeDiverged(LogError):
    """This node's records are not those that its cluster signed: it takes nothing and answers nobody."""


class LogCorrupt(LogError):
    """The file is not a log of ours, or is damaged."""


class ViewsError(TrackerError):
    """The views cannot answer; a rebuild heals all of these."""


class ViewsMissing(ViewsError):
    """No views have been built yet."""


class ViewsOutdated(ViewsError):
    """The views were written by another version of Tracker."""


class ViewsUnavailable(ViewsError):
    """The store cannot take or give rows now (disk full, locked, damaged); nothing was saved."""


class ViewsBehind(ViewsError):
    """The position asked for is not projected yet."""


class QueryError(TrackerError):
    """The reader has to act."""


class ParameterInvalid(QueryError):
    """A query parameter is unknown or has a bad value."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class NotFound(QueryError):
    """Nothing has that id."""


class Erased(QueryError):
    """The bytes asked for were erased; the record's place, name and leaf are still there."""


class Ambiguous(QueryError):
    """Several sessions have that id."""

    def __init__(self, message: str, matches: tuple[str, ...]) -> None:
        super().__init__(message)
        self.matches = matches


class TokenInvalid(QueryError):
    """No read token, or one that does not verify."""


class ScopeMissing(QueryError):
    """A good token that lacks the scope this route needs."""


class EvidenceError(TrackerError):
    """Whoever relies on the log has to look: something that is signed, or should be, is not in order."""


class NoteMalformed(EvidenceError):
    """This text is no signed note, no checkpoint, or no key."""


class NoteUnverified(EvidenceError):
    """No key that is known signed the note, or a signature does not fit."""


class HistoryChanged(EvidenceError):
    """The log is not a continuation of a checkpoint that was signed; nothing new is signed."""


class CheckpointUnwritten(EvidenceError):
    """The file of checkpoints cannot be read or written."""


class BundleUnreadable(EvidenceError):
    """This file is no evidence bundle, or was damaged or made to do harm."""


class ConfigInvalid(TrackerError):
    """config.toml cannot be used; the message names the key and how to fix it."""
