"""The types every route uses: what the API knows (`ApiContext`), one request, the kinds of answers, and `Route`.

A `Route` is data: `app` serves it and `openapi` describes it, so that both always know the same routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from tracker.api.auth import Access, Reader
from tracker.api.health import UnreadyReasons
from tracker.api.parameters import Parameter
from tracker.evidence.bundle.build import BundleSettings
from tracker.errors import Ambiguous
from tracker.domain.facts import Micros
from tracker.domain.rows import SessionRow
from tracker.log.contract import Log
from tracker.views.answers import Session
from tracker.views.contract import ViewsReader
from tracker.views.presenters import present_session

DEFAULT_STUCK_AFTER = 12 * 3_600 * 1_000_000
"""`stuck_after` of a source that is no longer configured, in µs."""


class ApiContext(msgspec.Struct, frozen=True):
    """Everything the API answers from.

    `now` gives µs since the epoch. `stuck_after`: source → µs. `vendors`: configured source → vendor.
    `unready_reasons` says why this server should get no traffic; `render_metrics` gives a body and its content type.
    `live` is the hub of the live stream (`tracker.api.live.LiveStream`), None if nothing follows the views.
    `log_key` is the verifier key of checkpoints, None without a signing key. `bundle_settings`: None if this server makes
    no evidence bundles. `secret_warnings`: source → why its secret proves little.
    """

    log: Log
    views: ViewsReader
    access: Access
    now: Callable[[], int]
    stuck_after: Mapping[str, int]
    vendors: Mapping[str, str]
    unready_reasons: UnreadyReasons
    render_metrics: Callable[[], tuple[bytes, str]]
    live: Any = None
    log_key: str | None = None
    bundle_settings: BundleSettings | None = None
    secret_warnings: Mapping[str, str] = {}

    def stuck_before(self, source: str) -> Micros:
        """An open session of `source` is stuck now if its last event is not after this moment (µs)."""
        return self.now() - self.stuck_after.get(source, DEFAULT_STUCK_AFTER)

    def present_session(self, row: SessionRow) -> Session:
        """The answer for a session; whether it is stuck is decided now."""
        return present_session(row, stuck_before=self.stuck_before(row.source))


class ApiRequest(msgspec.Struct, frozen=True):
    """One request. `path` holds the parts of the path, `query` a value for every parameter of the route."""

    context: ApiContext
    reader: Reader
    path: Mapping[str, str]
    query: Mapping[str, Any]

    @property
    def paging(self) -> dict[str, Any]:
        """`limit` and `cursor`, as the views take them."""
        return {"limit": self.query["limit"], "cursor": self.query["cursor"]}

    @property
    def sources(self) -> tuple[str, ...] | None:
        """The sources the answer is limited to, by the reader's token and by `?source=`. None: all."""
        source: str | None = self.query.get("source")
        if source is None:
            return self.reader.sources
        return (source,) if self.reader.sees(source) else ()


class BytesAnswer(msgspec.Struct, frozen=True):
    """An answer of exact bytes, and the file name under which a browser saves them."""

    body: bytes
    file_name: str


class ZipAnswer(msgspec.Struct, frozen=True):
    """Describes an answer that is a streamed zip file."""


class TextAnswer(msgspec.Struct, frozen=True):
    """An answer in plain text (UTF-8)."""

    text: str


class StreamAnswer(msgspec.Struct, frozen=True):
    """A streamed answer: `stream` sends it with the given headers and returns when it has ended."""

    stream: Callable[[web.Request, Mapping[str, str]], Awaitable[web.StreamResponse]]


class MultipleChoices(Ambiguous):
    """Several sessions have that id (300); `page` is the list to choose from."""

    def __init__(self, message: str, matches: tuple[str, ...], page: msgspec.Struct) -> None:
        super().__init__(message, matches)
        self.page = page


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route of the API."""

    path: str
    name: str
    """`operationId` in openapi.json."""
    description: str
    scope: str
    parameters: tuple[Parameter, ...]
    answer: Any
    """The struct it answers with, or `BytesAnswer`, `TextAnswer`, `ZipAnswer`."""
    handler: Callable[[ApiRequest], Awaitable[msgspec.Struct]]
    choices: Any = None
    """The list it answers with 300; None if an id cannot be ambiguous."""
    can_be_missing: bool = False
    """Whether it may answer 404."""
    is_stream: bool = False
    """Whether it answers with many `answer`s, as server-sent events."""
