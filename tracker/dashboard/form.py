"""Reads the forms of the dashboard: URL-encoded, small, and soon.

Nothing is proved about who sends a form, so it gets little: 16 KiB, five seconds, no files.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from aiohttp import web

from tracker.errors import LogBusy
from tracker.ingest.request_body import BodyReader

FORM_BYTES = 16 * 1024
FORM_SECONDS = 5.0
MAX_FIELDS = 16
FORM_TYPE = "application/x-www-form-urlencoded"

BODY_READER: web.AppKey[BodyReader] = web.AppKey("body_reader", BodyReader)
"""The reader of all request bodies of this server."""


class FormRefused(Exception):
    """The form was not read: the status of the answer, the kind of the problem, its title, and what to do."""

    def __init__(self, status: int, kind: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form, the first of each name. Raises `FormRefused`."""
    if request.content_type != FORM_TYPE or request.headers.get("Content-Encoding", "identity") != "identity":
        raise FormRefused(415, "form-type-unsupported", "The form cannot be read", f"send it as {FORM_TYPE}")
    if (request.content_length or 0) > FORM_BYTES:
        raise _too_large()
    reader = request.app[BODY_READER]
    try:
        body = await reader.read(request.content, FORM_BYTES, remote=request.remote, seconds=FORM_SECONDS)
    except TimeoutError:
        detail = f"the form did not arrive within {FORM_SECONDS:.0f} s: send it again"
        raise FormRefused(408, "form-too-slow", "The form took too long", detail) from None
    except LogBusy as error:
        raise FormRefused(503, "log-busy", "Too many requests are being received", str(error)) from None
    except (web.RequestPayloadError, ConnectionError):
        raise FormRefused(400, "form-invalid", "The form is incomplete", "send it again") from None
    if len(body) > FORM_BYTES:
        raise _too_large()
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:  # UnicodeDecodeError is one
        detail = "it is not URL-encoded UTF-8, or has too many fields"
        raise FormRefused(400, "form-invalid", "The form cannot be read", detail) from None
    form: dict[str, str] = {}
    for name, value in fields:
        form.setdefault(name, value)
    return form


def _too_large() -> FormRefused:
    return FormRefused(413, "form-too-large", "The form is too large", f"at most {FORM_BYTES} bytes are read")
