"""A question on its way to its answer: the door it came through, who asks, and what was asked.

A `Route` is data: `app` serves it, `openapi` describes it, and neither can know one the other does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from tracker.api.auth import Access, Reader
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
"""For sources whose records are here but which are configured no more, in µs."""


class ApiContext(msgspec.Struct, frozen=True):
    """What the read door needs. `now` in µs; `stuck_after` source → µs; `vendors` configured source → vendor.

    `unready` gives the reasons why this server should get no traffic; `metrics` a body and its content type.
    `live` is the hub of the live stream (`tracker.api.live.Live`); None where nothing follows the views.
    `log_key` is the verifier key of checkpoints, None where there is no signing key. `bundling`: what evidence bundles need.
    """

    log: Log
    views: ViewsReader
    access: Access
    now: Callable[[], int]
    stuck_after: Mapping[str, int]
    vendors: Mapping[str, str]
    unready_reasons: Callable[[], Awaitable[list[str]]]
    render_metrics: Callable[[], tuple[bytes, str]]
    live: Any = None
    log_key: str | None = None
    bundle_settings: BundleSettings | None = None

    def stuck_before(self, source: str) -> Micros:
        """The latest last event (µs) with which an open session of `source` counts as stuck now."""
        return self.now() - self.stuck_after.get(source, DEFAULT_STUCK_AFTER)

    def present_session(self, row: SessionRow) -> Session:
        """The answer for a session; whether it is stuck is decided now."""
        return present_session(row, stuck_before=self.stuck_before(row.source))


class ApiRequest(msgspec.Struct, frozen=True):
    """One question: `path` holds the parts of the path, `query` every parameter of the route."""

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
        """What the answer is narrowed to: by the reader's token and by `?source=`. None: all."""
        asked: str | None = self.query.get("source")
        if asked is None:
            return self.reader.sources
        return (asked,) if self.reader.sees(asked) else ()


class BytesAnswer(msgspec.Struct, frozen=True):
    """An answer that is no JSON: the exact bytes, and how a browser may save them."""

    body: bytes
    file_name: str


class ZipAnswer(msgspec.Struct, frozen=True):
    """An answer that is a zip; it is streamed."""


class TextAnswer(msgspec.Struct, frozen=True):
    """An answer that is plain text, UTF-8."""

    text: str


class StreamAnswer(msgspec.Struct, frozen=True):
    """An answer that goes on: `stream` prepares it with the headers given, and returns when it has ended."""

    stream: Callable[[web.Request, Mapping[str, str]], Awaitable[web.StreamResponse]]


class MultipleChoices(Ambiguous):
    """Several have that id; `page` is the list to choose from."""

    def __init__(self, message: str, matches: tuple[str, ...], page: msgspec.Struct) -> None:
        super().__init__(message, matches)
        self.page = page


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One way of asking. `answer` is the struct (or `Bytes`) it gives; `several` the list it gives with 300.

    `streams`: it gives many of them, as server-sent events.
    """

    path: str
    name: str
    description: str
    scope: str
    parameters: tuple[Parameter, ...]
    answer: Any
    handler: Callable[[ApiRequest], Awaitable[msgspec.Struct]]
    choices: Any = None
    can_be_missing: bool = False
    """Whether it may answer 404."""
    is_stream: bool = False
