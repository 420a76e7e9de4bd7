"""The door for deliveries: verify the raw bytes, append, answer 200. Nothing after the append can change the answer.

    POST /hooks/{source}[/{token}][/]

    unknown source ─────────────────→ 404   before the body is read
    body over max_body_bytes ───────→ 413   as soon as that is known
    proof does not fit ─────────────→ 401
    log busy, full, gone ───────────→ 503   with Retry-After
    recorded, or recorded before ───→ 200   {"position": n, "duplicate": false}

Every error is problem+json (RFC 9457) and says what to change. What was refused is counted and logged by source and
reason; bodies, tokens and proofs never are.
"""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiohttp import HttpVersion11, web

from tracker.ingest.request_body import BODY_SECONDS, BodyReader
from tracker.domain.deliveries import Appended, Delivery
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
from tracker.ingest.recorded_response import RecordedResponse
from tracker.ingest.verify_batch import VerificationBatcher

if TYPE_CHECKING:
    from tracker.log.contract import Log
    from tracker.server.metrics import Metrics
    from tracker.sources.contract import Source

PATHS = ("/hooks/{source}", "/hooks/{source}/", "/hooks/{source}/{token}", "/hooks/{source}/{token}/")

REFUSALS: dict[type[Exception], tuple[int, str, str]] = {
    SignatureMissing: (401, "No proof came with the delivery", "Configure the sender to sign its webhooks."),
    SignatureMismatch: (401, "The proof does not fit the bytes", "Compare the secret here with the sender's."),
    SignatureStale: (401, "The proof is from another time", "Set the clocks of both hosts with NTP."),
    KeyUnknown: (401, "The proof names an unknown key", "Add the sender's key to this source in config.toml."),
    SourceUnknown: (404, "No such source", "Check the name after /hooks/ against [[sources]] in config.toml."),
    BodyTooLarge: (413, "The body is too large", "Raise server.max_body_bytes in config.toml."),
}
"""This door's status table: status, title, and what to do where the error itself does not say."""

_log = structlog.get_logger("ingest")


class _BodyBroken(Exception):
    """The body stopped half-way, took too long, or could not be decoded. Never leaves this file."""


class Ingest:
    """The room behind `/hooks`. `now` gives µs since the epoch; `sources` are keyed by their configured name.

    `last_seen` is when each source's last authentic delivery came (µs); `last_refused` when and why one was refused.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        log: Log,
        *,
        max_body_bytes: int,
        now: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._sources = sources
        self._together = VerificationBatcher(log)
        self._max_body_bytes = max_body_bytes
        self._now = now
        self._metrics = metrics
        self.last_seen: dict[str, int] = {}
        self.last_refused: dict[str, tuple[int, str]] = {}
        self._not_recorded = 0
        self.arriving = BodyReader()

    def add_routes(self, app: web.Application) -> None:
        """Answer every hook path, with or without a trailing slash: senders do not follow redirects."""
        for name in self._sources:  # found without a pattern: nearly every delivery goes to one of these
            app.router.add_route("*", f"/hooks/{name}", functools.partial(self._answer_of, name))
        for path in PATHS:
            app.router.add_route("*", path, self._answer)
        app.router.add_route("*", "/hooks", self._answer)
        app.router.add_route("*", "/hooks/{rest:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return await self._answer_of(request.match_info.get("source", ""), request)

    async def _answer_of(self, name: str, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            headers = {"Allow": "POST"}
            return _problem(405, "method_not_allowed", "Only POST is taken here", "Send deliveries with POST.", headers)
        try:
            source = self._source(name)
            appended = await self._take(source, request)
        except (DeliveryRejected, _BodyBroken) as error:
            return self._refused(name, error, request.remote)
        except LogError as error:
            return self._unavailable(name, error)
        except MemoryError:
            return self._unavailable(name, LogUnavailable("out of memory"))
        except Exception as error:
            return self._failed(name, error)
        outcome = "duplicate" if appended.duplicate else "recorded"
        self._metrics.delivered(name, outcome)
        if request.version < HttpVersion11:  # benchmarks and old proxies: they ask to be kept in words of their own
            told = {"position": appended.position, "duplicate": appended.duplicate}
            return _json(200, told, "application/json")
        return RecordedResponse(appended, self._now())

    def _source(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            raise SourceUnknown(f"no source is named {name[:64]!r}: check the path against [[sources]] in config.toml")
        return source

    async def _take(self, source: Source, request: web.Request) -> Appended:
        delivery = self._delivery(source, request, await self._body(request))
        appended = await self._together.recorded(source, delivery)
        if self._not_recorded:
            _log.warning("deliveries are recorded again", not_recorded=self._not_recorded)
            self._not_recorded = 0
        self.last_seen[source.name] = delivery.received_at
        self._metrics.seen(source.name, delivery.received_at)
        return appended

    def _delivery(self, source: Source, request: web.Request, body: bytes) -> Delivery:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), value)
        query: dict[str, str] = {}
        if request.query_string:  # nearly none has one, and reading it is not cheap
            for name, value in request.query.items():
                query.setdefault(name, value)
        return Delivery(
            source=source.name,
            body=body,
            received_at=self._now(),
            headers=headers,
            query=query,
            token=request.match_info.get("token"),
        )

    async def _body(self, request: web.Request) -> bytes:
        """The body, bounded as it arrives; a compressed one is bounded by what it unpacks to."""
        bound = self._max_body_bytes
        if request.content_length is not None and request.content_length > bound:
            raise BodyTooLarge(f"the body has {request.content_length} bytes, server.max_body_bytes is {bound}")
        try:
            if request.content.is_eof():  # it came together with its head, as nearly all do
                body = request.content.read_nowait()
            else:
                body = await self.arriving.body(request.content, bound)
        except TimeoutError as error:
            raise _BodyBroken(f"the body did not arrive within {BODY_SECONDS:.0f} s: nothing was recorded") from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise _BodyBroken("the body stopped half-way or cannot be decoded: nothing was recorded") from error
        if len(body) > bound:
            raise BodyTooLarge(f"the body has more than server.max_body_bytes = {bound} bytes")
        return body

    def _refused(self, name: str, error: DeliveryRejected | _BodyBroken, remote: str | None) -> web.Response:
        reason = _reason(error)
        known = name in self._sources
        self._metrics.delivered(name if known else "?", reason)
        if known:
            self.last_refused[name] = (self._now(), reason)
        _log.warning("delivery refused", source=name[:64], reason=reason, remote=remote)
        status, title, advice = REFUSALS.get(type(error), (400, "The delivery cannot be taken", "Send it again."))
        return _problem(status, reason, title, str(error) or advice)

    def _unavailable(self, name: str, error: LogError) -> web.Response:
        reason = _reason(error)
        self._not_recorded += 1
        self._metrics.delivered(name, reason)
        _log.error("delivery not recorded", source=name, reason=reason, detail=str(error))
        # The log's own words name files and disks: they are for the operator, not for whoever sends.
        what = "too many deliveries are waiting" if isinstance(error, LogBusy) else "the log cannot take records now"
        # Not "nothing was recorded": a cluster that did not acknowledge in time may still have it.
        detail = f"{what}: send it again, a repeat is recorded once. The operator finds the reason in the server's log."
        return _problem(503, reason, "Not recorded", detail, {"Retry-After": "1"})

    def _failed(self, name: str, error: Exception) -> web.Response:
        self._metrics.delivered(name, "failed")
        # Where, not what: the message or the local variables of such an error may hold the body or a secret.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno} in {frame.name}"
        _log.error("delivery failed", source=name, error=type(error).__name__, where=where)
        detail = "nothing was recorded because of a mistake in Tracker; its log says where: please report it"
        return _problem(500, "failed", "Tracker made a mistake", detail)


def _reason(error: Exception) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.lstrip("_")).lower()


def _problem(status: int, kind: str, title: str, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    document = {
        "type": f"urn:tracker:problem:{kind.replace('_', '-')}",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return _json(status, document, "application/problem+json", headers)


def _json(status: int, document: object, content_type: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=content_type, headers=headers)
