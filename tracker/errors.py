"""All errors, grouped by who has to act.

    TrackerError
    ├── DeliveryRejected      the sender has to act  → 401 / 404 / 413
    │   ├── SignatureMissing      the delivery carries no proof
    │   ├── SignatureMismatch     the proof does not match the bytes
    │   ├── SignatureStale        the proof is too old, or from the future
    │   ├── KeyUnknown            the proof names a key that is not configured
    │   ├── SourceUnknown         no source of that name is configured
    │   └── BodyTooLarge          more bytes than max_body_bytes
    ├── DeclarationsChanged   the views have to be built again, by a process that knows them
    ├── LogError              the operator has to act → 503
    │   ├── LogMissing            there is no log at that path (`tracker init`)
    │   ├── LogUnavailable        the store cannot write or read now (disk full, locked, gone)
    │   ├── LogBusy               the append queue is full
    │   ├── NodeBehind            this node is too far behind the others of its cluster
    │   ├── NodeOutdated          the stream has frames of a newer Tracker: upgrade this node
    │   ├── NodeDiverged          this node's records differ from what its cluster signed
    │   └── LogCorrupt            the file is damaged, or no log of Tracker
    ├── ViewsError            a rebuild repairs the views
    │   ├── ViewsMissing          there are no views yet
    │   ├── ViewsOutdated         written by another version of Tracker
    │   ├── ViewsUnavailable      the store cannot write or read rows now   → 503
    │   │   ├── ViewsDamaged          the file is damaged: it is moved aside and made again
    │   │   └── ViewsPathWrong        `views.path` names another file of Tracker
    │   └── ViewsBehind           the requested position is not projected yet → 504
    ├── QueryError            the reader has to act
    │   ├── ParameterInvalid      a parameter is unknown or its value is bad → 400
    │   ├── NotFound              nothing has that id                        → 404
    │   ├── Erased                the bytes were erased; the rest is shown   → 410
    │   ├── Ambiguous             several sessions have that id              → 300
    │   ├── TokenInvalid          no token, or one that does not verify      → 401
    │   └── ScopeMissing          a good token without the needed scope      → 403
    ├── EvidenceError         everyone who relies on the log has to act
    │   ├── NoteMalformed         the text is no signed note, checkpoint or key
    │   ├── NoteUnverified        no known key signed the note, or its signature is wrong
    │   ├── HistoryChanged        the log does not continue the last checkpoint; nothing is signed
    │   ├── CheckpointUnwritten   the file of checkpoints cannot be read or written
    │   └── BundleUnreadable      the file is no evidence bundle, or is damaged
    └── ConfigInvalid         the operator has to act, before start → exit 2

Leaves name what happened and have no suffix; branches say who has to act. A message says what to do next and never holds a
secret.
"""

from __future__ import annotations

from typing import Literal


class TrackerError(Exception):
    """The base class of every error that Tracker raises."""


class DeliveryRejected(TrackerError):
    """The sender, or its administrator, has to act; nothing was recorded."""


class SignatureMissing(DeliveryRejected):
    """The delivery carries no proof at all."""


class SignatureMismatch(DeliveryRejected):
    """The proof does not match these bytes."""


class SignatureStale(DeliveryRejected):
    """The proof is too old, or from the future."""


class KeyUnknown(DeliveryRejected):
    """The proof names a key that is not configured for this source."""


class SourceUnknown(DeliveryRejected):
    """No source of that name is configured."""


class BodyTooLarge(DeliveryRejected):
    """The body exceeds `server.max_body_bytes`."""


class DeclarationsChanged(TrackerError):
    """A declaration was recorded that this process does not know yet: another process has to build the views."""


class LogError(TrackerError):
    """The operator has to act; nothing was acknowledged."""


class LogMissing(LogError):
    """There is no log at that path; `tracker init` creates one."""


class LogUnavailable(LogError):
    """The store cannot write or read records now. `reason` is set where the caller can act on it."""

    def __init__(self, message: str = "", reason: Literal["locked", "no_master_key"] | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class LogBusy(LogError):
    """The append queue is full; try again shortly."""


class NodeBehind(LogError):
    """This node is too far behind its cluster to accept deliveries or to answer readers."""


class NodeOutdated(LogError):
    """The stream has messages that only a newer Tracker can read; this node applies nothing more until it is upgraded."""


class NodeDiverged(LogError):
    """This node's records differ from what its cluster signed; it accepts no deliveries and answers no readers."""


class LogCorrupt(LogError):
    """The file is not a log of Tracker, or is damaged."""


class ViewsError(TrackerError):
    """The views cannot answer; a rebuild repairs them."""


class ViewsMissing(ViewsError):
    """No views have been built yet."""


class ViewsOutdated(ViewsError):
    """The views were written by another version of Tracker."""


class ViewsUnavailable(ViewsError):
    """The store cannot write or read rows now (disk full, locked); nothing was saved."""


class ViewsDamaged(ViewsUnavailable):
    """The file of the views is damaged. A server moves it aside and makes it again from the log."""


class ViewsPathWrong(ViewsUnavailable):
    """`views.path` names another file of Tracker. A server does not start."""


class ViewsBehind(ViewsError):
    """The requested position is not projected yet."""


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
    """The requested bytes were erased; the record's position, dedupe key and leaf still exist."""


class Ambiguous(QueryError):
    """Several sessions have that id."""

    def __init__(self, message: str, matches: tuple[str, ...]) -> None:
        super().__init__(message)
        self.matches = matches


class TokenInvalid(QueryError):
    """There is no read token, or it does not verify."""


class ScopeMissing(QueryError):
    """The token is valid but lacks the scope that this route needs."""


class EvidenceError(TrackerError):
    """Everyone who relies on the log has to act: something that is signed, or should be, is wrong."""


class NoteMalformed(EvidenceError):
    """The text is no signed note, checkpoint or key."""


class NoteUnverified(EvidenceError):
    """No known key signed the note, or a signature is wrong."""


class HistoryChanged(EvidenceError):
    """The log does not continue a signed checkpoint; nothing new is signed."""


class CheckpointUnwritten(EvidenceError):
    """The file of checkpoints cannot be read or written."""


class BundleUnreadable(EvidenceError):
    """The file is no evidence bundle, or it is damaged or malicious."""


class ConfigInvalid(TrackerError):
    """config.toml cannot be used; the message names the key and how to fix it."""
