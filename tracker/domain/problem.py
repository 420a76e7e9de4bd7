"""Problem documents (RFC 9457), and where an internal error was raised. Every HTTP error of Tracker is built from here."""

from __future__ import annotations

import re
import traceback

import msgspec

CONTENT_TYPE = "application/problem+json"

INTERNAL_ERROR = ("failed", "Internal error in Tracker")
"""Kind and title of a 500."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request has no answer (RFC 9457). `parameter` names the parameter to change, if one is wrong."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None


def encode_problem(status: int, kind: str, title: str, detail: str, *, parameter: str | None = None) -> bytes:
    """One problem document as JSON. `kind` is the last part of its URN, in kebab-case."""
    urn = f"urn:tracker:problem:{kind}"
    return msgspec.json.encode(Problem(type=urn, title=title, status=status, detail=detail, parameter=parameter))


def problem_kind(error: Exception) -> str:
    """The kind of an error: its class name in kebab-case, `LogBusy` → `log-busy`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.lstrip("_")).lower()


def raised_at(error: Exception) -> str:
    """Where an unexpected error was raised: `FILE:LINE in FUNCTION`.

    Log this instead of the message: a message may hold parts of a delivery or a secret.
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
