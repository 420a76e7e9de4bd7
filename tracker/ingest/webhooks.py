"""The webhook endpoint: verify the raw bytes, append, answer 200. Nothing after the append can change the answer.

    POST /hooks/{source}[/{token}][/]
    POST /hooks/{source}/events/{subject}/{event}   some senders append this; the body says the same

    unknown source ──────────────────────→ 404   before the body is read
    body over max_body_bytes ────────────→ 413   as soon as that is known
    body stopped half-way ───────────────→ 503   with Retry-After
    Content-Encoding not supported ──────→ 415
    proof rejected ──────────────────────→ 401   or what the source's sender takes for a failure (403)
    authentic challenge ─────────────────→ 200   with the vendor's answer; nothing is recorded
    log busy, disk full, log unavailable → 503   with Retry-After
    recorded, or recorded before ────────→ 200   {"position": n, "duplicate": false}

Every error is problem+json (RFC 9457) and says what to change. Refusals are counted and logged by source and reason;
bodies, tokens and proofs are never logged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from aiohttp import HttpVersion11, web

from tracker.domain.deliveries import Appended, ChallengeReceived, Delivery, Micros
from tracker.domain.texts import storable
from tracker.domain.problem import CONTENT_TYPE, INTERNAL_ERROR, encode_problem, problem_kind, raised_at
from tracker.errors import (
    BodyTooLarge,
    DeliveryRejected,
    KeyUnknown,
    LogBusy,
    LogError,
    LogUnavailable,
    SignatureMismatch,
    SignatureMissing,
    SignatureStale,
    SourceUnknown,
)  # fmt: skip
from tracker.ingest import decompression
from tracker.ingest.recorded_response import RecordedResponse
from tracker.ingest.request_body import BODY_SECONDS, BodyReader
from tracker.ingest.verify_batch import VerificationBatcher

if TYPE_CHECKING:
    from tracker.log.contract import Appender
    from tracker.sources.contract import Source

PATHS = (
    "/hooks/{source}",
    "/hooks/{source}/",
    "/hooks/{source}/events/{subject:room|occupant}/{event:created|destroyed|joined|left}",
    "/hooks/{source}/{token}",
    "/hooks/{source}/{token}/",
)


class _BodyIncomplete(Exception):
    """The body stopped half-way or took too long. Answered 503: some senders take a 4xx for delivered."""


class _BodyBroken(Exception):
    """The body is not what its `Content-Encoding` says."""


class _EncodingUnsupported(Exception):
    """The body has a `Content-Encoding` that is not supported."""


REFUSALS: dict[type[Exception], tuple[int, str, str]] = {
    SignatureMissing: (401, "The delivery has no proof", "Configure the sender to sign its webhooks."),
    SignatureMismatch: (401, "The proof does not match the body", "Compare the secret here with the sender's."),
    SignatureStale: (401, "The proof is too old or from the future", "Set the clocks of both hosts with NTP."),
    KeyUnknown: (401, "The proof names an unknown key", "Add the sender's key to this source in config.toml."),
    SourceUnknown: (404, "No such source", "Check the name after /hooks/ against [[sources]] in config.toml."),
    _BodyIncomplete: (503, "The body is incomplete", "Send it again."),
    _BodyBroken: (400, "The body cannot be decompressed", "Correct the sender or the proxy."),
    _EncodingUnsupported: (415, "The Content-Encoding is not supported", "Send gzip, deflate or no encoding."),
    BodyTooLarge: (413, "The body is too large", "Raise server.max_body_bytes in config.toml."),
}
"""Error → status, title, and the remedy for errors that carry no message. Else the detail is the error's own message (sources/)."""

_log = structlog.get_logger("ingest")


class IngestObserver(Protocol):
    """What ingest reports while it runs. The server counts it (`server/metrics`)."""

    def delivered(self, source: str, outcome: str) -> None:
        """A delivery was answered: "recorded", "duplicate", "challenge", or the reason of the refusal ("signature_mismatch", "log_busy" …).

        `source` is "?" where no source of that name is configured.
        """
        ...

    def authenticated(self, source: str, received_at: Micros) -> None:
        """An authentic delivery of a source was recorded."""
        ...


class Declarer(Protocol):
    """Records the declaration of a source before its first delivery (`server/declarations`)."""

    missing: Mapping[str, str]
    """The sources whose declaration is not in the log yet."""

    async def declare(self, source: str) -> None:
        """Append it. Raises `LogError`."""
        ...


class Ingest:
    """The handlers of `/hooks`. `now` gives µs since the epoch; `sources` are keyed by their configured name.

    `last_seen` is when each source's last authentic delivery was received (µs); `last_refused` is (µs, reason) of each
    source's last refusal. `body_reader` knows how much memory partly read bodies use.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        log: Appender,
        *,
        max_body_bytes: int,
        now: Callable[[], Micros],
        observer: IngestObserver,
        declarer: Declarer | None = None,
    ) -> None:
        self._sources = sources
        self._batcher = VerificationBatcher(log)
        self._max_body_bytes = max_body_bytes
        self._now = now
        self._observer = observer
        self._declarer = declarer
        self.last_seen: dict[str, Micros] = {}
        self.last_refused: dict[str, tuple[Micros, str]] = {}
        self._not_recorded = 0
        self.body_reader = BodyReader()

    def add_routes(self, app: web.Application) -> None:
        """Add a route for every hook path, with and without a trailing slash: senders do not follow redirects."""
        for name in self._sources:  # plain paths are found faster than patterns, and nearly all deliveries use them
            app.router.add_route("*", f"/hooks/{name}", functools.partial(self._handle_source, name))
        for path in PATHS:
            app.router.add_route("*", path, self._handle)
        app.router.add_route("*", "/hooks", self._handle)
        app.router.add_route("*", "/hooks/{rest:.*}", self._handle)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await self._handle_source(request.match_info.get("source", ""), request)

    async def _handle_source(self, name: str, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            headers = {"Allow": "POST"}
            return _problem(
                405, "method_not_allowed", "Only POST is allowed here", "Send deliveries with POST.", headers
            )
        try:
            source = self._source(name)
            appended = await self._record(source, request)
        except ChallengeReceived as challenge:
            return self._challenged(name, challenge)
        except (DeliveryRejected, _BodyIncomplete, _BodyBroken, _EncodingUnsupported) as error:
            return self._refused(name, error, request.remote)
        except LogError as error:
            return self._unavailable(name, error)
        except MemoryError:
            return self._unavailable(name, LogUnavailable("out of memory"))
        except Exception as error:
            return self._failed(name, error)
        outcome = "duplicate" if appended.duplicate else "recorded"
        self._observer.delivered(name, outcome)
        if request.version < HttpVersion11:  # benchmarks and old proxies, with keep-alive rules of their own
            document = {"position": appended.position, "duplicate": appended.duplicate}
            return _json(200, document, "application/json")
        return RecordedResponse(appended, self._now())

    def _source(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            # The name may be a token, in a path that was encoded wrongly.
            raise SourceUnknown(
                "no source has the name in this path: check the path against [[sources]] in config.toml"
            )
        return source

    async def _record(self, source: Source, request: web.Request) -> Appended:
        delivery = self._delivery(source, request, await self._body(request))
        if self._declarer is not None and source.name in self._declarer.missing:
            source.verify(delivery)  # nothing is recorded for a stranger
            await self._declarer.declare(source.name)
        appended = await self._batcher.submit(source, delivery)
        if self._not_recorded:
            _log.warning("deliveries are recorded again", not_recorded=self._not_recorded)
            self._not_recorded = 0
        self.last_seen[source.name] = delivery.received_at
        self._observer.authenticated(source.name, delivery.received_at)
        return appended

    def _delivery(self, source: Source, request: web.Request, body: bytes) -> Delivery:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), value)
        query: dict[str, str] = {}
        if request.query_string:  # hardly any delivery has one, and parsing it is slow
            for name, value in request.query.items():
                # What is not UTF-8 becomes text that can be stored: the rest of the delivery may be authentic.
                query.setdefault(storable(name), storable(value))
        return Delivery(
            source=source.name,
            body=body,
            received_at=self._now(),
            headers=headers,
            query=query,
            token=request.match_info.get("token"),
        )

    async def _body(self, request: web.Request) -> bytes:
        """Read the body, bounded while it arrives, and decompress it, bounded by its decompressed size."""
        limit = self._max_body_bytes
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity", *decompression.SUPPORTED}:
            raise _EncodingUnsupported("send the body with Content-Encoding gzip or deflate, or with none")
        if request.content_length is not None and request.content_length > limit:
            raise BodyTooLarge(f"the body has {request.content_length} bytes, server.max_body_bytes is {limit}")
        try:
            if request.content.is_eof():  # the whole body arrived with the headers, as nearly all do
                body = request.content.read_nowait()
            else:
                body = await self.body_reader.read(request.content, limit, remote=request.remote)
        except TimeoutError as error:
            raise _BodyIncomplete(f"the body did not arrive within {BODY_SECONDS:.0f} s: send it again") from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise _BodyIncomplete("the body stopped half-way: send it again") from error
        if len(body) > limit:
            raise BodyTooLarge(f"the body has more than server.max_body_bytes = {limit} bytes")
        if encoding not in decompression.SUPPORTED:
            return body
        try:
            return await decompression.decompress(body, encoding, limit)
        except decompression.Undecodable as error:
            raise _BodyBroken(f"{error}: nothing was recorded") from error
        except decompression.TooLarge as error:
            raise BodyTooLarge(f"{error}: nothing was recorded") from error

    def _challenged(self, name: str, challenge: ChallengeReceived) -> web.Response:
        self._observer.delivered(name, "challenge")
        _log.info("a vendor's challenge was answered", source=name)
        return web.Response(body=challenge.answer, content_type="application/json")

    def _refused(self, name: str, error: Exception, remote: str | None) -> web.Response:
        reason = _reason(error)
        is_known = name in self._sources
        self._observer.delivered(name if is_known else "?", reason)
        if is_known:
            self.last_refused[name] = (self._now(), reason)
        _log.warning("delivery refused", source=name if is_known else "?", reason=reason, remote=remote)
        status, title, remedy = REFUSALS.get(type(error), (400, "The delivery cannot be read", "Send it again."))
        if status == HTTPStatus.UNAUTHORIZED and is_known:
            status = self._sources[name].rejected_status
        headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        return _problem(status, reason, title, str(error) or remedy, headers)

    def _unavailable(self, name: str, error: LogError) -> web.Response:
        reason = _reason(error)
        self._not_recorded += 1
        self._observer.delivered(name, reason)
        _log.error("delivery not recorded", source=name, reason=reason, detail=str(error))
        # The error's message names files and disks: it is for the operator, not for the sender.
        cause = "too many deliveries are waiting" if isinstance(error, LogBusy) else "the log cannot take records now"
        # Not "nothing was recorded": a cluster that did not acknowledge in time may still have recorded it.
        detail = (
            f"{cause}: send it again, a repeat is recorded once. The operator finds the reason in the server's log."
        )
        return _problem(503, reason, "Not recorded", detail, {"Retry-After": "1"})

    def _failed(self, name: str, error: Exception) -> web.Response:
        self._observer.delivered(name, "failed")
        _log.error("delivery failed", source=name, error=type(error).__name__, where=raised_at(error))
        kind, title = INTERNAL_ERROR
        detail = (
            "nothing was recorded because of a bug in Tracker: please report it. The server's output says where it is."
        )
        return _problem(500, kind, title, detail)


def _reason(error: Exception) -> str:
    return problem_kind(error).replace("-", "_")


def _problem(status: int, kind: str, title: str, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = encode_problem(status, kind.replace("_", "-"), title, detail)
    return web.Response(status=status, body=body, content_type=CONTENT_TYPE, headers=headers)


def _json(status: int, document: object, content_type: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=content_type, headers=headers)
